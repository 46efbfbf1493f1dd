"""Placing orders: each is committed with its first job before DNSimple is called, and once while it is in flight."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import SYSTEM, record
from app.db.clock import read_now
from app.db.database import Database
from app.db.models import Certificate, Job, JobState, Order, OrderState, new_id
from app.db.upsert import insert_once
from app.domain_names import OrderNames, OrderRequest, digest_names, resolve_names
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim, Queue
from app.orders.idempotency import Key, KeyInFlightError, StoredAnswer, digest_request, find_key, store_key
from app.timeline import record_step


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What to order. Two orders with the same `in_flight_key` are never in flight together.

    A renewal names the certificate that it `renews`, and why it is ordered.
    """

    names: OrderNames
    auto_renew: bool
    signature_algorithm: str
    in_flight_key: str
    renews: Certificate | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """A committed order; `is_new` is false if an identical one was in flight already.

    `claim` is the right to advance it now; None if a worker or another request does.
    """

    order_id: str
    claim: Claim | None
    is_new: bool


def create_order(
    session: Session,
    queue: Queue,
    account_id: int,
    new: NewOrder,
    *,
    client_id: str | None = None,
    hold_seconds: float | None = None,
    actor: str = SYSTEM,
) -> PlacedOrder:
    """Record an order with its timeline, audit entry and job in the caller's transaction, or find the one in flight.

    With `hold_seconds` the caller advances the order itself for that long; otherwise a worker does.
    """
    order_id, names, renews = new_id("ord"), new.names, new.renews
    created = insert_once(
        session,
        Order,
        id=order_id,
        account_id=account_id,
        client_id=client_id,
        domain=names.domain,
        name=names.name,
        common_name=names.common_name,
        san=list(names.san),
        names=list(names.names),
        auto_renew=new.auto_renew,
        signature_algorithm=new.signature_algorithm,
        state=OrderState.ACCEPTED,
        in_flight_key=new.in_flight_key,
        renews_certificate_id=None if renews is None else renews.id,
    )
    if not created:
        in_flight = select(Order.id).where(Order.in_flight_key == new.in_flight_key)
        return PlacedOrder(session.scalars(in_flight).one(), None, is_new=False)
    if renews is None:
        record_step(session, "ordered", ", ".join(names.names), order_id=order_id, certificate_id=None)
        record(session, actor=actor, action="order.placed", subject=order_id, detail={"names": names.names})
    else:
        record_step(session, "renewal ordered", new.reason, order_id=order_id, certificate_id=renews.id)
        detail = {"order_id": order_id, "reason": new.reason}
        record(session, actor=actor, action="renewal.ordered", subject=str(renews.id), detail=detail)
    args = {"order_id": order_id}
    if hold_seconds is not None:
        claim = queue.enqueue_claimed(session, JobKind.ADVANCE_ORDER, args, lease_seconds=hold_seconds)
        return PlacedOrder(order_id, claim, is_new=True)
    # A client waits for its order; a renewal has days.
    priority = None if renews is None else Priority.BACKGROUND
    queue.enqueue(session, JobKind.ADVANCE_ORDER, args, priority=priority)
    return PlacedOrder(order_id, None, is_new=True)


def submit_order(
    database: Database,
    queue: Queue,
    account_id: int,
    request: OrderRequest,
    *,
    client_id: str,
    idempotency_key: str | None,
    hold_seconds: float | None,
    actor: str = SYSTEM,
) -> PlacedOrder | StoredAnswer:
    """Commit a client's order together with its idempotency key, or return the answer stored for the same key.

    Raises `InvalidFieldError`, `KeyReusedError` or `KeyInFlightError`; nothing is recorded then.
    """
    key = None if idempotency_key is None else Key(client_id, idempotency_key, digest_request(request))
    with database.write() as session:
        earlier = None if key is None else find_key(session, key)
        if isinstance(earlier, StoredAnswer):
            return earlier
        if earlier is not None:
            if is_being_advanced(session, earlier):
                raise KeyInFlightError("the first request with this Idempotency-Key is still being processed")
            return PlacedOrder(earlier, None, is_new=False)  # the process that handled it died before it answered
        names = resolve_names(request.domain, request.name, request.san)
        options = (str(account_id), names.domain, str(request.auto_renew), request.signature_algorithm)
        new = NewOrder(
            names=names,
            auto_renew=request.auto_renew,
            signature_algorithm=request.signature_algorithm,
            in_flight_key=digest_names([*names.names, " ".join(options)]),
        )
        placed = create_order(
            session, queue, account_id, new, client_id=client_id, hold_seconds=hold_seconds, actor=actor
        )
        if key is not None:
            store_key(session, key, placed.order_id)
        return placed


def is_being_advanced(session: Session, order_id: str) -> bool:
    """Whether a worker or a request holds the order's first job at this moment."""
    now = read_now(session)
    running = session.scalars(select(Job).where(Job.kind == JobKind.ADVANCE_ORDER, Job.state == JobState.RUNNING))
    return any(
        job.args.get("order_id") == order_id and job.lease_expires_at is not None and job.lease_expires_at > now
        for job in running
    )
