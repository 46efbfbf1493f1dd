"""Which certificate of a lineage is the newest: by notBefore, then by ID."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, exists, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from app.db.models import Certificate


def newest_of_lineage() -> ColumnElement[bool]:
    """That an installed certificate has no successor; the lineage of one that is not installed is not known."""
    newer = aliased(Certificate)
    has_newer = exists().where(
        newer.lineage_id == Certificate.lineage_id,
        newer.not_before >= Certificate.not_before,
        or_(newer.not_before > Certificate.not_before, newer.id > Certificate.id),
    )
    return and_(Certificate.lineage_id.is_not(None), ~has_newer)


def newest_successor(session: Session, certificate: Certificate) -> Certificate | None:
    """The newest certificate of the lineage of this one, which is installed, unless that is this one itself."""
    newer = select(Certificate).where(
        Certificate.lineage_id == certificate.lineage_id,
        tuple_(Certificate.not_before, Certificate.id) > tuple_(certificate.not_before, certificate.id),
    )
    return session.scalar(newer.order_by(Certificate.not_before.desc(), Certificate.id.desc()).limit(1))


def replaced(session: Session, certificates: Sequence[Certificate]) -> set[int]:
    """The IDs of those that have a successor, so that nobody need worry about their end."""
    installed = [row.id for row in certificates if row.lineage_id is not None]
    query = select(Certificate.id).where(Certificate.id.in_(installed), newest_of_lineage())
    return set(installed) - set(session.scalars(query)) if installed else set()
