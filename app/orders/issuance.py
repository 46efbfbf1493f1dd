"""An order: accepted -> purchased -> requested. Committed first, taken step by step, resumable after any step.

A purchase cannot be repeated safely: DNSimple has no idempotency key and sells again. So "about to buy" is committed
before the call, and whoever finds an order in that state looks for the certificate before buying another one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import structlog
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_successor
from app.db.clock import read_now
from app.db.models import Certificate, Domain, Order, OrderState
from app.db.upsert import insert_once
from app.dnsimple.adapter import Certificate as RemoteCertificate
from app.dnsimple.adapter import Deadline
from app.dnsimple.errors import NotFoundError, RefusedError
from app.errors import AccountBlockedError, OutcomeUnknownError, PermanentError, RetryableError
from app.jobs.queue import FIRST_RETRY_SECONDS, Claim, LeaseLostError, Snooze
from app.orders.failures import fail_order, problem_details_for
from app.orders.polling import start_polling
from app.orders.purchase_recovery import (
    PurchaseResult,
    dnsimple_for,
    find_purchased,
    find_successors,
    purchase,
    request_issuance,
)
from app.services import Services
from app.timeline import record_step

log = structlog.get_logger("certcourier")


def advance(services: Services, claim: Claim, *, deadline: Deadline | None = None) -> None:
    """Take the order's steps until DNSimple has it in hand or has refused it; each is committed before the next.

    No call to DNSimple begins after `deadline`. Raises `RetryableError`, `OutcomeUnknownError`, `Snooze` or
    `AccountBlockedError` when a later attempt has to continue.
    """
    order_id = str(claim.args["order_id"])
    while True:
        with services.database.read() as session:
            order = session.get_one(Order, order_id)
        step = _STEPS.get(order.state)
        if step is None:
            return
        try:
            step(services, claim, order, deadline)
        except PermanentError as error:
            with services.queue.finishing(claim) as session:
                current = session.get_one(Order, order_id)
                if isinstance(error, AccountBlockedError) and (error.affects_all_calls or current.state in _UNCERTAIN):
                    raise  # not this order's fault, or only a lookup was refused: a certificate may have been purchased
                fail_order(session, current, problem_details_for(error, order))
            return


def advance_inline(services: Services, claim: Claim, patience: Deadline) -> None:
    """Advance an order within a request's patience; what cannot be done in it is left to the workers, at once."""
    try:
        advance(services, claim, deadline=patience)
        services.queue.complete(claim)
    except Snooze as pause:
        _release(services, claim, pause.seconds, str(pause))
    except (RetryableError, AccountBlockedError) as error:
        wait = error.retry_after if isinstance(error, RetryableError) else None
        _release(services, claim, FIRST_RETRY_SECONDS if wait is None else wait, str(error))
    except OutcomeUnknownError as error:
        _release(services, claim, 1.0, str(error))
    except LeaseLostError:
        log.warning("a worker took the order over", order_id=claim.args["order_id"])


def _release(services: Services, claim: Claim, delay: float, reason: str) -> None:
    log.warning("order left to the workers", order_id=claim.args["order_id"], reason=reason)
    with suppress(LeaseLostError), services.database.write() as session:
        services.queue.release(session, claim, delay=delay)


def order_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up: the order says so."""
    order = session.get_one(Order, str(claim.args["order_id"]))
    if order.state in _STEPS:
        fail_order(session, order, {"type": "failed", "title": "The order was given up", "detail": error})


def _purchase(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    if order.renews_certificate_id is not None and _is_succeeded(services, claim, order, deadline):
        return
    # A process that was frozen past its lease must not send its purchase when it wakes: another one may have bought.
    deadline = deadline or Deadline.after(services.queue.lease_seconds)
    with services.queue.checkpoint(claim, lease_seconds=_lease(services, deadline)) as session:
        current = _locked(session, order)
        current.state = OrderState.PURCHASING
        current.purchase_attempted_at = read_now(session)
    try:
        bought = purchase(dnsimple_for(services, order), order, deadline)
    except (RetryableError, PermanentError):
        _go_back(
            services, claim, order, OrderState.PURCHASING, OrderState.ACCEPTED
        )  # certainly not bought: no need to look for it
        raise
    with services.queue.checkpoint(claim, lease_seconds=_lease(services, deadline)) as session:
        _record_purchase(session, order, bought)
        detail = f"certificate {bought.certificate_id}"
        record_step(session, "purchased", detail, order_id=order.id, certificate_id=bought.certificate_id)


def _settle_purchase(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    """Somebody was about to buy, and we do not know whether it happened: look before buying."""
    found = find_purchased(services, order, deadline)
    with services.queue.checkpoint(claim, lease_seconds=_lease(services, deadline)) as session:
        current = _locked(session, order)
        if found is not None:
            if not _record_purchase(session, order, PurchaseResult(found.id, found.state)):
                return  # another order has adopted it at this very moment: look again
            detail = "the answer to the purchase was lost; found in the domain's certificates"
            record_step(session, "adopted", detail, order_id=order.id, certificate_id=found.id)
            return
        attempted_at = current.purchase_attempted_at or current.created_at
        age = (read_now(session) - attempted_at).total_seconds()
        left = services.settings.purchase_settle_seconds - age
        if left <= 0:
            current.state = OrderState.ACCEPTED
            return
    # The lost request may still be on its way through DNSimple: not seeing a certificate yet proves nothing.
    raise Snooze(min(left, 5.0 * 2 ** min(claim.snoozes, 10)), "waiting to see whether a purchase took effect")


def _is_succeeded(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> bool:
    """Whether a renewal need not be bought any more: a successor is installed, being issued, or about to be fetched."""
    assert order.renews_certificate_id is not None  # noqa: S101, asked of renewals alone
    found = find_successors(services, order, deadline)
    with services.queue.checkpoint(claim, lease_seconds=_lease(services, deadline)) as session:
        current = _locked(session, order)
        newer = newest_successor(session, session.get_one(Certificate, order.renews_certificate_id))
        if newer is not None:
            current.state, current.in_flight_key, current.certificate_id = OrderState.FETCHED, None, newer.id
            detail = "it was renewed meanwhile; nothing was bought"
            record_step(session, "adopted", detail, order_id=order.id, certificate_id=newer.id)
            return True
        if found.awaited_by is not None:
            detail = f"order {found.awaited_by} will bring its successor; nothing was bought"
            fail_order(session, current, {"type": "not-needed", "title": "Not needed", "detail": detail})
            return True
        if found.usable is None or not _record_purchase(
            session, order, PurchaseResult(found.usable.id, found.usable.state)
        ):
            return False
        detail = "DNSimple has renewed it by itself; nothing was bought"
        record_step(session, "adopted", detail, order_id=order.id, certificate_id=found.usable.id)
        return True


def _record_purchase(session: Session, order: Order, bought: PurchaseResult) -> bool:
    """Link order and certificate; False if the certificate is another order's."""
    insert_once(
        session,
        Certificate,
        id=bought.certificate_id,
        account_id=order.account_id,
        domain=order.domain,
        order_id=order.id,
        state=bought.state,
        common_name=order.common_name,
        names=order.names,
        auto_renew=order.auto_renew,
    )
    certificate = session.get_one(Certificate, bought.certificate_id, with_for_update=True)
    if certificate.order_id not in {None, order.id}:
        return False
    certificate.order_id = order.id
    current = _locked(session, order)
    current.certificate_id, current.renewal_id = bought.certificate_id, bought.renewal_id
    if certificate.fetched_at is not None:  # its event was faster than we were
        current.state, current.in_flight_key = OrderState.FETCHED, None
    else:
        current.state = OrderState.PURCHASED if bought.state == "new" else OrderState.REQUESTING
    return True


def _issue(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    assert order.certificate_id is not None  # noqa: S101, `purchased` is committed together with it
    with services.queue.checkpoint(claim, lease_seconds=_lease(services, deadline)) as session:
        current = _locked(session, order)
        if current.state != OrderState.PURCHASED:
            return  # an event overtook us
        current.state = OrderState.REQUESTING
    try:
        remote = request_issuance(dnsimple_for(services, order), order, order.certificate_id, deadline)
    except (RefusedError, NotFoundError):
        # DNSimple's words for "already requested" are not documented, so its state decides (contract, section 6).
        remote = dnsimple_for(services, order).certificate(order.domain, order.certificate_id, deadline=deadline)
        if remote.state == "new":
            if order.renews_certificate_id is None or order.renewal_id is not None:
                raise
            _leave_unissued(services, claim, order)
            return
    except (RetryableError, PermanentError):
        _go_back(services, claim, order, OrderState.REQUESTING, OrderState.PURCHASED)  # certainly not requested
        raise
    _record_requested(services, claim, order, remote)


def _leave_unissued(services: Services, claim: Claim, order: Order) -> None:
    """A renewal whose number was lost with its answer, and that DNSimple does not issue without: order another."""
    with services.queue.checkpoint(claim) as session:
        current = _locked(session, order)
        if current.state == OrderState.REQUESTING:
            detail = "its renewal's number was lost, and it cannot be issued without; another one is ordered"
            record_step(session, "left", detail, order_id=order.id, certificate_id=order.certificate_id)
            current.state, current.certificate_id = OrderState.ACCEPTED, None


def _settle_issue(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    """The answer to the issue call was lost; asking for the certificate shows whether it was heard."""
    assert order.certificate_id is not None  # noqa: S101, as in `_issue`
    remote = dnsimple_for(services, order).certificate(order.domain, order.certificate_id, deadline=deadline)
    if remote.state == "new":
        _go_back(services, claim, order, OrderState.REQUESTING, OrderState.PURCHASED, deadline=deadline)
        return
    _record_requested(services, claim, order, remote)


def _record_requested(services: Services, claim: Claim, order: Order, remote: RemoteCertificate) -> None:
    with services.queue.checkpoint(claim) as session:
        insert_once(session, Domain, id=remote.domain_id, account_id=order.account_id, name=order.domain)
        certificate = session.get_one(Certificate, remote.id, with_for_update=True)
        certificate.domain_id = remote.domain_id
        current = _locked(session, order)
        if current.state in _STEPS:  # otherwise its event was faster than this answer
            certificate.state = remote.state
            current.state = OrderState.PENDING
            record_step(session, "pending", remote.state, order_id=order.id, certificate_id=remote.id)
            start_polling(services, session, order.id)


def _go_back(
    services: Services,
    claim: Claim,
    order: Order,
    state: OrderState,
    earlier: OrderState,
    *,
    deadline: Deadline | None = None,
) -> None:
    """Take a step anew that certainly had no effect, unless an event has overtaken us."""
    with services.queue.checkpoint(claim, lease_seconds=_lease(services, deadline)) as session:
        current = _locked(session, order)
        if current.state == state:
            current.state = earlier


def _lease(services: Services, deadline: Deadline | None) -> float | None:
    """A request's lease covers all the patience that it has left, since no heartbeat keeps it."""
    return None if deadline is None else deadline.remaining() + services.queue.lease_seconds


def _locked(session: Session, order: Order) -> Order:
    return session.get_one(Order, order.id, with_for_update=True)


# A call of ours may have taken effect: what became of it has to be looked up.
_UNCERTAIN = {OrderState.PURCHASING, OrderState.REQUESTING}
_STEPS: dict[str, Callable[[Services, Claim, Order, Deadline | None], None]] = {
    OrderState.ACCEPTED: _purchase,
    OrderState.PURCHASING: _settle_purchase,
    OrderState.PURCHASED: _issue,
    OrderState.REQUESTING: _settle_issue,
}
