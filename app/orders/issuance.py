"""The state machine of an order: accepted -> purchasing -> purchased -> requesting -> pending.

Each step is committed before the next, so an order can be resumed after any of them. A purchase cannot be repeated
safely: DNSimple has no idempotency key and sells again. So `purchasing` is committed before the call, and an order
that is found in that state searches DNSimple for its certificate before it purchases another one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_successor
from app.certificates.records import lock_certificate, record_domain
from app.db.clock import read_now
from app.db.models import Certificate, Order, OrderState
from app.dnsimple.adapter import Certificate as RemoteCertificate
from app.dnsimple.adapter import Deadline, DNSimple, Purpose
from app.dnsimple.errors import NotFoundError, RefusedError
from app.errors import AccountBlockedError, OutcomeUnknownError, PermanentError, RetryableError
from app.jobs.queue import FIRST_RETRY_SECONDS, Claim, LeaseLostError, Queue, Snooze
from app.orders.failures import fail_order, problem_details_for
from app.orders.polling import start_polling
from app.orders.purchase_recovery import find_purchased, find_successors
from app.services import Services
from app.timeline import record_step
from config import Settings

log = structlog.get_logger("certcourier")


@dataclass(frozen=True, slots=True)
class PurchaseResult:
    """`renewal_id` is needed to request a renewal's issuance; DNSimple reports it in this answer only."""

    certificate_id: int
    state: str
    renewal_id: int | None = None


def advance(services: Services, claim: Claim, *, deadline: Deadline | None = None) -> None:
    """Take the order's steps until DNSimple is issuing its certificate or has refused it.

    No call to DNSimple begins after `deadline`. Raises `RetryableError`, `OutcomeUnknownError`, `Snooze` or
    `AccountBlockedError` if a later attempt has to continue.
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
                    raise  # not the order's fault, or only a search was refused: a certificate may have been purchased
                fail_order(session, current, problem_details_for(error, order))
            return


def advance_inline(services: Services, claim: Claim, patience: Deadline) -> None:
    """Advance an order while its request waits; what does not fit into `patience` is left to the workers at once."""
    try:
        advance(services, claim, deadline=patience)
        services.queue.complete(claim)
    except Snooze as snooze:
        delay, reason = snooze.seconds, str(snooze)
    except RetryableError as error:
        delay, reason = FIRST_RETRY_SECONDS if error.retry_after is None else error.retry_after, str(error)
    except AccountBlockedError as error:
        delay, reason = FIRST_RETRY_SECONDS, str(error)
    except OutcomeUnknownError as error:
        delay, reason = 1.0, str(error)
    except LeaseLostError:
        log.warning("order taken over by a worker", order_id=claim.args["order_id"])
        return
    else:
        return
    log.warning("order left to the workers", order_id=claim.args["order_id"], reason=reason)
    with suppress(LeaseLostError), services.database.write() as session:
        services.queue.release(session, claim, delay=delay)


def order_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """Fail the order whose job failed permanently."""
    order = session.get_one(Order, str(claim.args["order_id"]))
    if order.state in _STEPS:
        fail_order(session, order, {"type": "failed", "title": "The order failed permanently", "detail": error})


def purchase(dnsimple: DNSimple, order: Order, deadline: Deadline | None) -> PurchaseResult:
    """Purchase a certificate, or the renewal of one. Not idempotent: after `LostAnswerError`, search before a retry."""
    if order.renews_certificate_id is not None:
        renewal = dnsimple.order_renewal(
            order.domain,
            order.renews_certificate_id,
            auto_renew=order.auto_renew,
            signature_algorithm=order.signature_algorithm,
            deadline=deadline,
        )
        return PurchaseResult(renewal.new_certificate_id, "new", renewal.id)
    purchased = dnsimple.purchase(
        order.domain,
        name=order.name,
        alternate_names=order.san,
        auto_renew=order.auto_renew,
        signature_algorithm=order.signature_algorithm,
        deadline=deadline,
    )
    return PurchaseResult(purchased.certificate_id, purchased.state)


def request_issuance(
    dnsimple: DNSimple, order: Order, certificate_id: int, deadline: Deadline | None
) -> RemoteCertificate:
    """Request issuance. A renewal whose ID was lost with its answer is requested like any other certificate."""
    if order.renews_certificate_id is not None and order.renewal_id is not None:
        return dnsimple.issue_renewal(order.domain, order.renews_certificate_id, order.renewal_id, deadline=deadline)
    return dnsimple.issue(order.domain, certificate_id, deadline=deadline)


def _dnsimple_for(dnsimple: DNSimple, order: Order) -> DNSimple:
    """A client waits for its order, so a share of the quota is reserved for it; a renewal has days."""
    return dnsimple.with_purpose(Purpose.BACKGROUND if order.renews_certificate_id else Purpose.INTERACTIVE)


def _purchase(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    if order.renews_certificate_id is not None and _adopt_successor(services, claim, order, deadline):
        return
    # A process that was frozen past its lease must not send its purchase when it resumes: another may have purchased.
    deadline = deadline or Deadline.after(services.queue.lease_seconds)
    with services.queue.checkpoint(claim, lease_seconds=_lease(services.queue, deadline)) as session:
        current = _lock(session, order)
        current.state = OrderState.PURCHASING
        current.purchase_attempted_at = read_now(session)
    try:
        result = purchase(_dnsimple_for(services.dnsimple, order), order, deadline)
    except (RetryableError, PermanentError):
        # Certainly not purchased: no search is needed.
        _step_back(services.queue, claim, order, OrderState.PURCHASING, OrderState.ACCEPTED)
        raise
    with services.queue.checkpoint(claim, lease_seconds=_lease(services.queue, deadline)) as session:
        _record_purchase(session, order, result)
        detail = f"certificate {result.certificate_id}"
        record_step(session, "purchased", detail, order_id=order.id, certificate_id=result.certificate_id)


def _adopt_successor(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> bool:
    """Whether a renewal need not be purchased: a successor is fetched, is being issued, or is about to be fetched."""
    assert order.renews_certificate_id is not None  # noqa: S101, called for renewals only
    found = find_successors(services.database, _dnsimple_for(services.dnsimple, order), order, deadline)
    with services.queue.checkpoint(claim, lease_seconds=_lease(services.queue, deadline)) as session:
        current = _lock(session, order)
        newer = newest_successor(session, session.get_one(Certificate, order.renews_certificate_id))
        if newer is not None:
            current.state, current.in_flight_key, current.certificate_id = OrderState.FETCHED, None, newer.id
            detail = "the certificate has been renewed in the meantime; nothing was purchased"
            record_step(session, "adopted", detail, order_id=order.id, certificate_id=newer.id)
            return True
        if found.awaited_by is not None:
            detail = f"order {found.awaited_by} is already obtaining a successor; nothing was purchased"
            fail_order(session, current, {"type": "not-needed", "title": "Renewal not needed", "detail": detail})
            return True
        remote = found.usable
        if remote is None or not _record_purchase(session, order, PurchaseResult(remote.id, remote.state)):
            return False
        detail = "DNSimple has renewed the certificate automatically; nothing was purchased"
        record_step(session, "adopted", detail, order_id=order.id, certificate_id=remote.id)
        return True


def _recover_purchase(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    """A purchase was attempted and its outcome is unknown: search for the certificate before purchasing another."""
    found = find_purchased(services.database, _dnsimple_for(services.dnsimple, order), order, deadline)
    with services.queue.checkpoint(claim, lease_seconds=_lease(services.queue, deadline)) as session:
        current = _lock(session, order)
        if found is not None:
            if not _record_purchase(session, order, PurchaseResult(found.id, found.state)):
                return  # another order has just adopted it: search again
            detail = "the purchase's answer was lost; the certificate was found in the domain's list"
            record_step(session, "adopted", detail, order_id=order.id, certificate_id=found.id)
            return
        attempted_at = current.purchase_attempted_at or current.created_at
        age = (read_now(session) - attempted_at).total_seconds()
        remaining = services.settings.purchase_settle_seconds - age
        if remaining <= 0:
            current.state = OrderState.ACCEPTED
            return
    # DNSimple may still be processing the lost request: that no certificate is listed yet proves nothing.
    raise Snooze(min(remaining, 5.0 * 2 ** min(claim.snoozes, 10)), "waiting to see whether a purchase took effect")


def _record_purchase(session: Session, order: Order, result: PurchaseResult) -> bool:
    """Link order and certificate; False if the certificate belongs to another order."""
    certificate = lock_certificate(
        session,
        result.certificate_id,
        account_id=order.account_id,
        domain=order.domain,
        order_id=order.id,
        state=result.state,
        common_name=order.common_name,
        names=order.names,
        auto_renew=order.auto_renew,
    )
    if certificate.order_id not in {None, order.id}:
        return False
    certificate.order_id = order.id
    current = _lock(session, order)
    current.certificate_id, current.renewal_id = result.certificate_id, result.renewal_id
    if certificate.fetched_at is not None:  # the certificate's event came first
        current.state, current.in_flight_key = OrderState.FETCHED, None
    else:
        current.state = OrderState.PURCHASED if result.state == "new" else OrderState.REQUESTING
    return True


def _request_issuance(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    assert order.certificate_id is not None  # noqa: S101, `purchased` is committed together with it
    with services.queue.checkpoint(claim, lease_seconds=_lease(services.queue, deadline)) as session:
        current = _lock(session, order)
        if current.state != OrderState.PURCHASED:
            return  # the certificate's event came first
        current.state = OrderState.REQUESTING
    dnsimple = _dnsimple_for(services.dnsimple, order)
    try:
        remote = request_issuance(dnsimple, order, order.certificate_id, deadline)
    except (RefusedError, NotFoundError):
        # DNSimple does not document its answer to a repeated request, so the certificate's state decides (contract,
        # section 6).
        remote = dnsimple.certificate(order.domain, order.certificate_id, deadline=deadline)
        if remote.state == "new":
            if order.renews_certificate_id is None or order.renewal_id is not None:
                raise
            _abandon_purchase(services.queue, claim, order)
            return
    except (RetryableError, PermanentError):
        # Certainly not requested.
        _step_back(services.queue, claim, order, OrderState.REQUESTING, OrderState.PURCHASED)
        raise
    _record_issuance_request(services.settings, services.queue, claim, order, remote)


def _abandon_purchase(queue: Queue, claim: Claim, order: Order) -> None:
    """A renewal whose ID was lost with its answer, and which DNSimple does not issue without: order another."""
    with queue.checkpoint(claim) as session:
        current = _lock(session, order)
        if current.state == OrderState.REQUESTING:
            detail = "the renewal's ID was lost and DNSimple does not issue without it; another renewal is ordered"
            record_step(session, "abandoned", detail, order_id=order.id, certificate_id=order.certificate_id)
            current.state, current.certificate_id = OrderState.ACCEPTED, None


def _recover_issuance_request(services: Services, claim: Claim, order: Order, deadline: Deadline | None) -> None:
    """The answer to the issuance request was lost: the certificate's state shows whether it took effect."""
    assert order.certificate_id is not None  # noqa: S101, as in `_request_issuance`
    remote = _dnsimple_for(services.dnsimple, order).certificate(order.domain, order.certificate_id, deadline=deadline)
    if remote.state == "new":
        _step_back(services.queue, claim, order, OrderState.REQUESTING, OrderState.PURCHASED, deadline=deadline)
        return
    _record_issuance_request(services.settings, services.queue, claim, order, remote)


def _record_issuance_request(
    settings: Settings, queue: Queue, claim: Claim, order: Order, remote: RemoteCertificate
) -> None:
    with queue.checkpoint(claim) as session:
        record_domain(session, account_id=order.account_id, domain_id=remote.domain_id, name=order.domain)
        certificate = lock_certificate(session, remote.id)
        certificate.domain_id = remote.domain_id
        current = _lock(session, order)
        if current.state in _STEPS:  # otherwise the certificate's event came before this answer
            certificate.state = remote.state
            current.state = OrderState.PENDING
            detail = f"DNSimple reports the certificate as {remote.state}"
            record_step(session, "issuance requested", detail, order_id=order.id, certificate_id=remote.id)
            start_polling(settings, queue, session, order.id)


def _step_back(
    queue: Queue,
    claim: Claim,
    order: Order,
    state: OrderState,
    earlier: OrderState,
    *,
    deadline: Deadline | None = None,
) -> None:
    """Undo a step that certainly had no effect, unless the certificate's event came first."""
    with queue.checkpoint(claim, lease_seconds=_lease(queue, deadline)) as session:
        current = _lock(session, order)
        if current.state == state:
            current.state = earlier


def _lease(queue: Queue, deadline: Deadline | None) -> float | None:
    """A request's lease covers all the time that it may still take, since no heartbeat extends it."""
    return None if deadline is None else deadline.remaining() + queue.lease_seconds


def _lock(session: Session, order: Order) -> Order:
    return session.get_one(Order, order.id, with_for_update=True)


# States in which a call of ours may have taken effect: its outcome has to be looked up.
_UNCERTAIN = {OrderState.PURCHASING, OrderState.REQUESTING}
_STEPS: dict[str, Callable[[Services, Claim, Order, Deadline | None], None]] = {
    OrderState.ACCEPTED: _purchase,
    OrderState.PURCHASING: _recover_purchase,
    OrderState.PURCHASED: _request_issuance,
    OrderState.REQUESTING: _recover_issuance_request,
}
