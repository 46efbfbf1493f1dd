"""Looking at a requested certificate: DNSimple sends no event when a first issuance fails, and events get lost."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from app.certificates.retrieval import enqueue_fetch
from app.db.clock import read_now
from app.db.models import Certificate, Order, OrderState
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Snooze
from app.orders.failures import fail_order
from app.services import Services
from app.timeline import record_step

FAILED_STATES = {"failed", "rejected", "cancelled", "refunded"}
_GIVE_UP_AFTER = timedelta(days=7)
# A renewal is given up sooner, so that there is time for another one: after 12 hours of a 6-day certificate.
_GIVE_UP_RENEWAL_AFTER = 1 / 12
_GIVE_UP_NOT_BEFORE = timedelta(hours=2)


def start_polling(services: Services, session: Session, order_id: str) -> None:
    """Schedule the first look, in the caller's transaction."""
    services.queue.enqueue(
        session,
        JobKind.POLL_ISSUANCE,
        {"order_id": order_id},
        delay=services.settings.issuance_poll_seconds[0],
    )


def poll_issuance(services: Services, claim: Claim) -> None:
    """One look: hand an issued certificate to `installing`, close an order that failed, or look again later."""
    order_id = str(claim.args["order_id"])
    with services.database.read() as session:
        order = session.get_one(Order, order_id)
        age, patience = read_now(session) - order.created_at, _patience(session, order)
    if order.state != OrderState.PENDING or order.certificate_id is None:
        return
    remote = services.dnsimple.certificate(order.domain, order.certificate_id)
    if remote.state != "issued" and remote.state not in FAILED_STATES and age < patience:
        pauses = services.settings.issuance_poll_seconds
        raise Snooze(pauses[min(claim.snoozes + 1, len(pauses) - 1)], f"still {remote.state}")
    with services.queue.finishing(claim) as session:
        if remote.state == "issued":
            # Before the certificate is locked: whoever installs it at this moment holds that job first, then the
            # certificate, and two that wait for each other in a circle would be ended by PostgreSQL.
            enqueue_fetch(services, session, certificate_id=remote.id, domain_id=remote.domain_id)
        session.get_one(Certificate, remote.id, with_for_update=True).state = remote.state
        current = session.get_one(Order, order_id, with_for_update=True)
        if current.state != OrderState.PENDING:
            return
        if remote.state == "issued":
            current.state = OrderState.ISSUED
            detail = "seen by looking; no event has come"
            record_step(session, "issued", detail, order_id=order_id, certificate_id=remote.id)
        else:
            fail_order(session, current, _why(remote.state))


def polling_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up, for instance because the domain has left the account: the order says so."""
    order = session.get_one(Order, str(claim.args["order_id"]), with_for_update=True)
    if order.state == OrderState.PENDING:
        fail_order(session, order, {"type": "lost-sight", "title": "The certificate cannot be seen", "detail": error})


def _patience(session: Session, order: Order) -> timedelta:
    old = session.get(Certificate, order.renews_certificate_id) if order.renews_certificate_id else None
    if old is None or old.not_before is None or old.not_after is None:
        return _GIVE_UP_AFTER
    share = (old.not_after - old.not_before) * _GIVE_UP_RENEWAL_AFTER
    return min(_GIVE_UP_AFTER, max(_GIVE_UP_NOT_BEFORE, share))


def _why(state: str) -> dict[str, str]:
    return {
        "type": "issuance-failed",
        "title": "The certificate was not issued",
        "detail": f"DNSimple says that the certificate is {state}. Check that the domain is delegated to DNSimple "
        "alone, that its CAA records allow letsencrypt.org and that its DNSSEC is sound, then order again.",
    }
