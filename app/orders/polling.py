"""Polling a pending certificate: DNSimple sends no event when a first issuance fails, and events can be lost."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.certificates.lifetime import issuance_timeout
from app.certificates.records import lock_certificate
from app.certificates.retrieval import enqueue_fetch
from app.db.clock import read_now
from app.db.models import Certificate, Order, OrderState
from app.db.models.states import FAILED_CERTIFICATE_STATES
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Queue, Snooze
from app.orders.failures import fail_order
from app.services import Services
from app.timeline import record_step
from config import Settings


def start_polling(settings: Settings, queue: Queue, session: Session, order_id: str) -> None:
    """Schedule the first poll in the caller's transaction."""
    queue.enqueue(
        session,
        JobKind.POLL_ISSUANCE,
        {"order_id": order_id},
        delay=settings.issuance_poll_seconds[0],
    )


def poll_issuance(services: Services, claim: Claim) -> None:
    """Poll once: enqueue the fetch of an issued certificate, fail the order of a failed one, or poll again later."""
    order_id = str(claim.args["order_id"])
    with services.database.read() as session:
        order = session.get_one(Order, order_id)
        replaced = session.get(Certificate, order.renews_certificate_id) if order.renews_certificate_id else None
        timed_out = read_now(session) - order.created_at >= issuance_timeout(replaced)
    if order.state != OrderState.PENDING or order.certificate_id is None:
        return
    remote = services.dnsimple.certificate(order.domain, order.certificate_id)
    if remote.state != "issued" and remote.state not in FAILED_CERTIFICATE_STATES and not timed_out:
        pauses = services.settings.issuance_poll_seconds
        raise Snooze(pauses[min(claim.snoozes + 1, len(pauses) - 1)], f"the certificate is still {remote.state}")
    with services.queue.finishing(claim) as session:
        if remote.state == "issued":
            # Before the certificate is locked: the job that fetches it locks itself first, then the certificate. In
            # the other order the two could deadlock.
            enqueue_fetch(services.queue, session, certificate_id=remote.id, domain_id=remote.domain_id)
        lock_certificate(session, remote.id).state = remote.state
        current = session.get_one(Order, order_id, with_for_update=True)
        if current.state != OrderState.PENDING:
            return
        if remote.state == "issued":
            current.state = OrderState.ISSUED
            detail = "found by polling; no event has arrived"
            record_step(session, "issued", detail, order_id=order_id, certificate_id=remote.id)
            return
        failure = {
            "type": "issuance-failed",
            "title": "The certificate was not issued",
            "detail": f"DNSimple reports the certificate as {remote.state}. Check that the domain is delegated only to "
            "DNSimple, that its CAA records allow letsencrypt.org and that DNSSEC validates, then order again.",
        }
        fail_order(session, current, failure)


def polling_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """Fail the order whose polling failed permanently, for instance because the domain has left the account."""
    order = session.get_one(Order, str(claim.args["order_id"]), with_for_update=True)
    if order.state == OrderState.PENDING:
        failure = {"type": "polling-failed", "title": "The certificate's state cannot be read", "detail": error}
        fail_order(session, order, failure)
