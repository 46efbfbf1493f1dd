"""An order is put on record before DNSimple is asked for anything: once for the same request, and once for what is in
flight already.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import SYSTEM, record
from app.db.clock import read_now
from app.db.models import Job, Order, OrderState, new_id
from app.db.upsert import insert_once
from app.domain_names import OrderNames, OrderRequest, digest_names, resolve_names
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim
from app.orders.idempotency import Key, KeyInFlightError, StoredAnswer, digest_request, find_key, keep_key
from app.services import Services
from app.timeline import record_step


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """An order that is on record. `claim` is the right to advance it now, unless a worker or another request does."""

    order_id: str
    claim: Claim | None


def create_order(
    session: Session,
    services: Services,
    request: OrderRequest,
    *,
    client_id: str | None,
    hold_seconds: float | None,
    actor: str = SYSTEM,
) -> PlacedOrder:
    """Put an order and its job on record in the caller's transaction, or find the identical one in flight.

    With `hold_seconds` the caller takes the steps itself for that long; otherwise a worker does. Raises
    `InvalidFieldError`.
    """
    names = resolve_names(request.domain, request.name, request.san)
    key = _in_flight_key(services.account_id, names, request)
    order_id = new_id("ord")
    placed = insert_once(
        session,
        Order,
        id=order_id,
        account_id=services.account_id,
        client_id=client_id,
        domain=names.domain,
        name=names.name,
        common_name=names.common_name,
        san=list(names.san),
        names=list(names.names),
        auto_renew=request.auto_renew,
        signature_algorithm=request.signature_algorithm,
        state=OrderState.ACCEPTED,
        in_flight_key=key,
    )
    if not placed:
        return PlacedOrder(session.scalars(select(Order.id).where(Order.in_flight_key == key)).one(), None)
    record_step(session, "ordered", ", ".join(names.names), order_id=order_id, certificate_id=None)
    record(session, actor=actor, action="order.placed", subject=order_id, detail={"names": names.names})
    args = {"order_id": order_id}
    if hold_seconds is not None:
        return PlacedOrder(
            order_id, services.queue.enqueue_claimed(session, JobKind.ADVANCE_ORDER, args, lease_seconds=hold_seconds)
        )
    services.queue.enqueue(session, JobKind.ADVANCE_ORDER, args)
    return PlacedOrder(order_id, None)


def submit_order(
    services: Services,
    request: OrderRequest,
    *,
    client_id: str,
    idempotency_key: str | None,
    hold_seconds: float | None,
    actor: str = SYSTEM,
) -> PlacedOrder | StoredAnswer:
    """Commit an order, and its idempotency key with it; or give back what the same key was answered before.

    Raises `InvalidFieldError`, `KeyReusedError` or `KeyInFlightError`; nothing is on record then.
    """
    with services.database.write() as session:
        if idempotency_key is None:
            return create_order(session, services, request, client_id=client_id, hold_seconds=hold_seconds, actor=actor)
        key = Key(client_id, idempotency_key, digest_request(request))
        earlier = find_key(session, key)
        if earlier is None:
            placed = create_order(
                session, services, request, client_id=client_id, hold_seconds=hold_seconds, actor=actor
            )
            keep_key(session, key, placed.order_id)
            return placed
        if isinstance(earlier, StoredAnswer):
            return earlier
        if is_being_advanced(session, earlier):
            raise KeyInFlightError("the first request with this Idempotency-Key is still being worked on")
        return PlacedOrder(earlier, None)  # whoever worked on it died before it answered


def is_being_advanced(session: Session, order_id: str) -> bool:
    """Whether somebody holds the order's first job at this moment."""
    now = read_now(session)
    running = session.scalars(select(Job).where(Job.kind == JobKind.ADVANCE_ORDER, Job.state == "running"))
    return any(
        job.args.get("order_id") == order_id and job.lease_expires_at is not None and job.lease_expires_at > now
        for job in running
    )


def _in_flight_key(account_id: int, names: OrderNames, request: OrderRequest) -> str:
    options = (str(account_id), names.domain, str(request.auto_renew), request.signature_algorithm)
    return digest_names([*names.names, " ".join(options)])
