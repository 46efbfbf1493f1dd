"""Lineages: certificates that replace each other, and which of them is the newest (by notBefore, then by ID)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.models import Certificate, Lineage
from app.db.upsert import insert_once
from app.domain_names import digest_names


def ensure_lineage(
    session: Session, *, account_id: int, domain: str, common_name: str, names: Sequence[str]
) -> Lineage:
    """The lineage of these names, created if it is new. It is named after the common name unless that is taken."""
    digest = digest_names(names)
    readable = common_name.replace("*", "_wildcard")[:200]
    identity = {"account_id": account_id, "domain": domain, "names_digest": digest}
    query = select(Lineage).filter_by(**identity)
    for name in (readable, f"{readable}-{digest[:12]}"):
        found = session.scalar(query)
        if found is not None:
            return found
        insert_once(session, Lineage, name=name, **identity)
    return session.scalars(query).one()


def is_newer(newer: Any, certificate: Any = Certificate) -> ColumnElement[bool]:
    """Whether `newer`, an alias of `Certificate`, replaces `certificate`: both are fetched and of one lineage."""
    return and_(
        newer.lineage_id == certificate.lineage_id,
        newer.not_before >= certificate.not_before,
        or_(newer.not_before > certificate.not_before, newer.id > certificate.id),
    )


def newest_of_lineage() -> ColumnElement[bool]:
    """Whether a certificate is the newest of its lineage; one that is not fetched yet has no lineage."""
    return and_(Certificate.lineage_id.is_not(None), ~exists().where(is_newer(aliased(Certificate))))


def newest_successor(session: Session, certificate: Certificate) -> Certificate | None:
    """The newest certificate of the lineage, or None if that is `certificate`, or if it is not fetched yet."""
    if certificate.lineage_id is None or certificate.not_before is None:
        return None
    newer = select(Certificate).where(is_newer(Certificate, certificate))
    return session.scalar(newer.order_by(Certificate.not_before.desc(), Certificate.id.desc()).limit(1))


def replaced(session: Session, certificates: Sequence[Certificate]) -> set[int]:
    """The IDs of those that have a successor, so that their expiry does not matter."""
    fetched = [certificate.id for certificate in certificates if certificate.lineage_id is not None]
    query = select(Certificate.id).where(Certificate.id.in_(fetched), newest_of_lineage())
    return set(fetched) - set(session.scalars(query)) if fetched else set()


def recency(certificate: Certificate) -> tuple[float, int]:
    """A sort key: of two certificates of one lineage, the newer has the greater."""
    return certificate.not_before.timestamp() if certificate.not_before else 0.0, certificate.id
