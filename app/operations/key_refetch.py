"""A private key that is on record no more, or that cannot be opened: fetched from DNSimple again, one call each."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.audit import record
from app.certificates.verification import check_key
from app.crypto.keyring import encryption_key_id
from app.db.models import UNFINISHED_DELIVERIES, Certificate, Delivery, DeliveryState, Job
from app.deliveries.delivery import enqueue_delivery
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim
from app.services import Services

log = structlog.get_logger("certcourier")


def enqueue_key_refetch(services: Services, session: Session, certificate_ids: Iterable[int], *, actor: str) -> int:
    """Enqueue a job for each in the caller's transaction; returns how many had none yet."""
    added = 0
    for number in certificate_ids:
        if services.queue.enqueue(session, JobKind.REFETCH_KEY, {"certificate_id": number}):
            record(session, actor=actor, action="private_key.refetched", subject=str(number))
            added += 1
    return added


def refetch_key(services: Services, claim: Claim) -> None:
    """Put the private key on record again; what could not be delivered without it is delivered.

    The certificate itself is on record in clear and stays: a key that does not belong to it is refused, with
    `VerificationError`.
    """
    number = int(claim.args["certificate_id"])
    with services.database.read() as session:
        certificate = session.get(Certificate, number)
    if certificate is None or certificate.leaf_pem is None:
        raise PermanentError(f"certificate {number} was never installed here, so there is nothing to fetch again")
    key = services.dnsimple.private_key(certificate.domain, number)
    check_key(certificate.leaf_pem, key.pem)
    with services.queue.finishing(claim) as session:
        row = session.get_one(Certificate, number, with_for_update=True)
        row.encrypted_key = services.encryptor.encrypt(key.pem, certificate_id=number, under=encryption_key_id(session))
        waiting = select(Delivery.destination).where(
            Delivery.certificate_id == number, Delivery.state.in_([*UNFINISHED_DELIVERIES, DeliveryState.FAILED])
        )
        for destination in session.scalars(waiting).all():
            if destination in services.destinations:
                enqueue_delivery(services, session, number, destination)
        log.info("private key fetched again", certificate_id=number)


def unfinished(services: Services) -> int:
    """How many are still to be fetched."""
    with services.database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.kind == JobKind.REFETCH_KEY, Job.finished_at.is_(None))
        return session.scalar(query) or 0
