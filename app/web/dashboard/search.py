"""The certificate search: every query follows an index and reads one page of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload

from app.alerts.certificate_conditions import unsuccessful_deliveries
from app.auth.scopes import only
from app.certificates.lifetime import expires_within
from app.certificates.lineages import newest_of_lineage
from app.certificates.queries import check_certificate_state
from app.db.clock import read_now
from app.db.database import Database
from app.db.models import Certificate, Delivery
from app.db.pagination import Page, paginate
from app.identifiers import parse_id

MOST = 1000
_AFTER_EVERYTHING = "\U0010ffff"
_FINGERPRINT = 64


@dataclass(frozen=True, slots=True)
class CertificateFilter:
    """What to search for. `text`: the beginning of a domain, a name, a certificate's ID or its fingerprint."""

    text: str = ""
    state: str = ""
    expiring_days: int | None = None
    unsuccessful: bool = False
    destination: str = ""


def at_most(session: Session, query: Select[Any], most: int = MOST) -> int:
    """How many rows there are, counted no further than one beyond `most`."""
    return session.scalar(select(func.count()).select_from(query.limit(most + 1).subquery())) or 0


def search(
    database: Database,
    wanted: CertificateFilter,
    *,
    destinations: Iterable[str],
    cursor: str | None,
    limit: int,
    domains: Sequence[str] | None = None,
) -> Page[Certificate]:
    """One page of matching certificates. Raises `InvalidFieldError` for an unknown state or `cursor`."""
    text = wanted.text.strip().rstrip(".").lower()
    query = _query(wanted, destinations, domains)
    with database.read() as session:
        check_certificate_state(session, wanted.state or None, domains)
        if wanted.expiring_days is not None:
            soon = expires_within(read_now(session), timedelta(days=wanted.expiring_days))
            query = query.where(soon, newest_of_lineage())
            if text:
                query = query.where(*(_identified(text) if _is_identifier(text) else [_in_domain(text)]))
            order = {"not_after": Certificate.not_after, "id": Certificate.id}
            return paginate(session, query, order, cursor=cursor, limit=limit)
        if text and not _is_identifier(text):
            # By bytes on either database, which is how the index is sorted.
            is_sqlite = session.get_bind().dialect.name == "sqlite"
            domain: Any = Certificate.domain if is_sqlite else Certificate.domain.collate("C")
            by_prefix = query.where(domain >= text, domain < text + _AFTER_EVERYTHING)
            if session.scalar(by_prefix.limit(1)) is not None:
                return paginate(
                    session, by_prefix, {"domain": domain, "id": Certificate.id}, cursor=cursor, limit=limit
                )
            query = query.where(_in_domain(text))
        elif text:
            query = query.where(*_identified(text))
        return paginate(session, query, {"id": Certificate.id}, cursor=cursor, limit=limit, descending=True)


def _query(
    wanted: CertificateFilter, destinations: Iterable[str], domains: Sequence[str] | None
) -> Select[Certificate]:
    lean = [defer(column) for column in (Certificate.leaf_pem, Certificate.chain_pem, Certificate.encrypted_key)]
    query = select(Certificate).options(joinedload(Certificate.lineage), selectinload(Certificate.deliveries), *lean)
    query = query.where(*only(domains, Certificate.domain))
    if wanted.state:
        query = query.where(Certificate.state == wanted.state)
    if wanted.unsuccessful or wanted.destination:
        of_this = [Delivery.certificate_id == Certificate.id]
        if wanted.destination:
            of_this.append(Delivery.destination == wanted.destination)
        if wanted.unsuccessful:
            unsuccessful = select(Delivery.certificate_id).where(*unsuccessful_deliveries(destinations), *of_this[1:])
            return query.where(Certificate.id.in_(unsuccessful))
        query = query.where(exists().where(*of_this))
    return query


def _is_identifier(text: str) -> bool:
    return _is_number(text) or len(_hex(text)) == _FINGERPRINT


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _FINGERPRINT


def _identified(text: str) -> list[ColumnElement[bool]]:
    if not text:
        return []
    if _is_number(text):
        return [Certificate.id == (parse_id(text) or 0)]
    return [Certificate.fingerprint == _hex(text)]


def _hex(text: str) -> str:
    """A fingerprint as it is stored, however it was copied: `AB:CD:...` or `ab cd`."""
    digits = text.replace(":", "").replace(" ", "").lower()
    return digits if all(letter in "0123456789abcdef" for letter in digits) else ""


def _in_domain(name: str) -> ColumnElement[bool]:
    """Certificates of the domains that this name may be in: itself and its parents."""
    labels = name.split(".")
    return Certificate.domain.in_([".".join(labels[at:]) for at in range(min(len(labels), 20))])
