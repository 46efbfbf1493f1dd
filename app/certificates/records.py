"""The rows of certificates, of their domains and of what is known of their renewal: created once, changed locked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.db.models import Certificate, Domain, RenewalInfo
from app.db.upsert import insert_once


def record_domain(session: Session, *, account_id: int, domain_id: int, name: str) -> None:
    """Record a domain of the account, by DNSimple's ID; reconciliation checks it from now on."""
    insert_once(session, Domain, id=domain_id, account_id=account_id, name=name.lower())


def lock_certificate(session: Session, certificate_id: int, **initial: Any) -> Certificate:
    """The certificate's row, locked for a change; created with the `initial` values if it is new."""
    if initial:
        insert_once(session, Certificate, id=certificate_id, **initial)
    return session.get_one(Certificate, certificate_id, with_for_update=True)


def lock_renewal_info(session: Session, certificate_id: int) -> RenewalInfo:
    """The row with what is known of the certificate's renewal, locked for a change; created if it is new."""
    insert_once(session, RenewalInfo, certificate_id=certificate_id)
    return session.get_one(RenewalInfo, certificate_id, with_for_update=True)


def record_renewal_failure(session: Session, certificate_id: int, error: str | None) -> None:
    """Record why the certificate's renewal failed last, to be shown when it is overdue; None clears it."""
    info = lock_renewal_info(session, certificate_id)
    info.error, info.failed_at = error, db_now() if error else None


def renewal_failure(session: Session, certificate_id: int) -> str | None:
    """Why the certificate's renewal failed last, if it did."""
    return session.scalar(select(RenewalInfo.error).where(RenewalInfo.certificate_id == certificate_id))
