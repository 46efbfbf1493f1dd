"""The certificates that somebody at the dashboard looks for: every query follows an index and reads one page of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, or_, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload

from app.auth.scopes import only
from app.certificates.lifetime import expires_within
from app.certificates.lineages import newest_of_lineage
from app.certificates.queries import Page, check_certificate_state
from app.db.clock import read_now
from app.db.models import Certificate, Delivery
from app.domain_names import InvalidFieldError
from app.identifiers import LARGEST_ID, is_id
from app.services import Services

MOST = 1000
_AFTER_EVERYTHING = "\U0010ffff"
_FINGERPRINT = 64


@dataclass(frozen=True, slots=True)
class CertificateFilter:
    """What is looked for. `text`: the beginning of a domain, a name, a certificate's ID or its fingerprint."""

    text: str = ""
    state: str = ""
    expiring_days: int | None = None
    failing: bool = False
    destination: str = ""


def at_most(session: Session, query: Select[Any], most: int = MOST) -> int:
    """How many rows there are, counted no further than one beyond `most`."""
    return session.scalar(select(func.count()).select_from(query.limit(most + 1).subquery())) or 0


def search(
    services: Services,
    wanted: CertificateFilter,
    *,
    after: str | None,
    limit: int,
    domains: Sequence[str] | None = None,
) -> Page[Certificate]:
    """One page. `after` is `next_after` of the page before.

    Raises `InvalidFieldError` if it is not, or for an unknown state.
    """
    text = wanted.text.strip().rstrip(".").lower()
    with services.database.read() as session:
        check_certificate_state(session, wanted.state or None, domains)
        if wanted.expiring_days is not None:
            return _by_expiry(session, wanted, text, _place(after, 2), limit=limit, domains=domains)
        if text and not _is_identifier(text):
            found = _by_domain(session, wanted, text, _place(after, 2), limit=limit, domains=domains)
            if found.rows or after is not None:
                return found
            return _by_id(session, wanted, [Certificate.domain.in_(_parents(text))], None, limit=limit, domains=domains)
        return _by_id(session, wanted, _identified(text), _place(after, 1), limit=limit, domains=domains)


def _by_id(
    session: Session,
    wanted: CertificateFilter,
    chosen: list[ColumnElement[bool]],
    after: list[Any] | None,
    *,
    limit: int,
    domains: Sequence[str] | None,
) -> Page[Certificate]:
    query = _query(wanted, domains).where(*chosen).order_by(Certificate.id.desc())
    if after is not None:
        query = query.where(Certificate.id < _number(after[0]))
    return _page(session, query, limit, lambda row: [row.id])


def _by_domain(
    session: Session,
    wanted: CertificateFilter,
    text: str,
    after: list[Any] | None,
    *,
    limit: int,
    domains: Sequence[str] | None,
) -> Page[Certificate]:
    # By bytes on either database, which is how the index is sorted.
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    domain: Any = Certificate.domain if is_sqlite else Certificate.domain.collate("C")
    query = _query(wanted, domains).where(domain >= text, domain < text + _AFTER_EVERYTHING)
    if after is not None:
        name, number = str(after[0]), _number(after[1])
        query = query.where(domain >= name, or_(domain > name, Certificate.id > number))
    return _page(session, query.order_by(domain, Certificate.id), limit, lambda row: [row.domain, row.id])


def _by_expiry(
    session: Session,
    wanted: CertificateFilter,
    text: str,
    after: list[Any] | None,
    *,
    limit: int,
    domains: Sequence[str] | None,
) -> Page[Certificate]:
    now = read_now(session)
    soon = expires_within(now, timedelta(days=wanted.expiring_days or 0))
    query = _query(wanted, domains).where(soon, newest_of_lineage())
    if text:
        query = query.where(*(_identified(text) if _is_identifier(text) else [Certificate.domain.in_(_parents(text))]))
    if after is not None:
        instant, number = _instant(after[0]), _number(after[1])
        later = or_(Certificate.not_after > instant, Certificate.id > number)
        query = query.where(Certificate.not_after >= instant, later)
    query = query.order_by(Certificate.not_after, Certificate.id)
    return _page(session, query, limit, lambda row: [row.not_after.isoformat() if row.not_after else "", row.id])


def _query(wanted: CertificateFilter, domains: Sequence[str] | None) -> Select[Certificate]:
    lean = [defer(column) for column in (Certificate.leaf_pem, Certificate.chain_pem, Certificate.encrypted_key)]
    query = select(Certificate).options(joinedload(Certificate.lineage), selectinload(Certificate.deliveries), *lean)
    query = query.where(*only(domains, Certificate.domain))
    if wanted.state:
        query = query.where(Certificate.state == wanted.state)
    if wanted.failing or wanted.destination:
        of_this = [Delivery.certificate_id == Certificate.id]
        if wanted.destination:
            of_this.append(Delivery.destination == wanted.destination)
        if wanted.failing:
            failing = select(Delivery.certificate_id).where(Delivery.is_unsuccessful(), *of_this[1:])
            return query.where(Certificate.id.in_(failing))
        query = query.where(exists().where(*of_this))
    return query


def _page(session: Session, query: Select[Certificate], limit: int, place: Any) -> Page[Certificate]:
    rows = list(session.scalars(query.limit(limit + 1)))
    more = len(rows) > limit
    return Page(rows[:limit], json.dumps(place(rows[limit - 1])) if more else None)


def _is_identifier(text: str) -> bool:
    return _is_number(text) or len(_hex(text)) == _FINGERPRINT


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _FINGERPRINT


def _identified(text: str) -> list[ColumnElement[bool]]:
    if not text:
        return []
    if _is_number(text):
        return [Certificate.id == min(int(text), LARGEST_ID)]
    return [Certificate.fingerprint == _hex(text)]


def _hex(text: str) -> str:
    """A fingerprint as we keep it, however it was copied: `AB:CD:...` or `ab cd`."""
    digits = text.replace(":", "").replace(" ", "").lower()
    return digits if all(letter in "0123456789abcdef" for letter in digits) else ""


def _parents(name: str) -> list[str]:
    """The name itself and all domains that it may be in."""
    labels = name.split(".")
    return [".".join(labels[at:]) for at in range(min(len(labels), 20))]


def _place(after: str | None, parts: int) -> list[Any] | None:
    if after is None:
        return None
    try:
        found = json.loads(after)
    except ValueError:
        found = None
    texts = "".join(one for one in found if isinstance(one, str)) if isinstance(found, list) else ""
    if not isinstance(found, list) or len(found) != parts or not texts.isprintable():
        raise InvalidFieldError("cursor", "is not one that this service gave out")
    return found


def _number(value: object) -> int:
    if not is_id(value):
        raise InvalidFieldError("cursor", "is not one that this service gave out")
    return value


def _instant(value: object) -> datetime:
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or not 1970 <= instant.year < 9000:
        raise InvalidFieldError("cursor", "is not one that this service gave out")
    return instant
