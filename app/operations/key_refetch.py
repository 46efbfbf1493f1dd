"""Retrieval of a private key that is no longer stored, or cannot be decrypted, from DNSimple: one call each."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.audit import record
from app.certificates.verification import check_key
from app.db.database import Database
from app.db.models import UNFINISHED_DELIVERIES, Certificate, Delivery, DeliveryState, Job
from app.deliveries.delivery import enqueue_delivery
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Queue
from app.services import Services

log = structlog.get_logger("certcourier")


def enqueue_key_refetch(queue: Queue, session: Session, certificate_ids: Iterable[int], *, actor: str) -> int:
    """Enqueue a job for each certificate in the caller's transaction; returns how many had none yet."""
    added = 0
    for certificate_id in certificate_ids:
        if queue.enqueue(session, JobKind.REFETCH_KEY, {"certificate_id": certificate_id}):
            record(session, actor=actor, action="private_key.refetched", subject=str(certificate_id))
            added += 1
    return added


def refetch_key(services: Services, claim: Claim) -> None:
    """Retrieve and store the private key, then enqueue the deliveries that need it.

    Raises `VerificationError` for a key that does not belong to the stored certificate.
    """
    certificate_id = int(claim.args["certificate_id"])
    with services.database.read() as session:
        certificate = session.get(Certificate, certificate_id)
    if certificate is None or certificate.leaf_pem is None:
        raise PermanentError(f"certificate {certificate_id} has never been fetched, so its key cannot be fetched again")
    key = services.dnsimple.private_key(certificate.domain, certificate_id)
    check_key(certificate.leaf_pem, key.reveal())
    with services.queue.finishing(claim) as session:
        row = session.get_one(Certificate, certificate_id, with_for_update=True)
        services.private_keys.store(session, row, key)
        undelivered = select(Delivery.destination).where(
            Delivery.certificate_id == certificate_id,
            Delivery.state.in_([*UNFINISHED_DELIVERIES, DeliveryState.FAILED]),
        )
        for destination in session.scalars(undelivered).all():
            if destination in services.destinations:
                enqueue_delivery(services.queue, services.destinations, session, certificate_id, destination)
        log.info("private key fetched again", certificate_id=certificate_id)


def count_unfinished(database: Database) -> int:
    """How many private keys are still to be fetched."""
    with database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.kind == JobKind.REFETCH_KEY, Job.finished_at.is_(None))
        return session.scalar(query) or 0
