"""Deliveries by an operator's wish: tried again at once, or owed to a destination that was added or lost its files.

All of it is enqueued in small commits, so that nobody waits for it and a second run goes on where one was interrupted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from app.audit import record
from app.certificates.lineages import newest_of_lineage
from app.db.database import Database
from app.db.models import UNFINISHED_DELIVERIES, Certificate, Delivery, DeliveryState, Job, Lineage
from app.db.upsert import insert_many_once
from app.deliveries.delivery import enqueue_deliveries
from app.destinations.base import Destination
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.jobs.queue import Queue
from app.operations.key_refetch import enqueue_key_refetch

BATCH = 100
_RETRYABLE = (*UNFINISHED_DELIVERIES, DeliveryState.FAILED)


@dataclass(frozen=True, slots=True)
class RedeliveryRequest:
    """Which certificates shall be delivered. `again`: also those that the destination has been given already."""

    destination: str
    lineage: str | None = None
    certificate_id: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of a batch of lineages."""

    checked: int
    owed: int


def list_deliveries(
    database: Database, *, state: str | None, destination: str | None, limit: int
) -> list[tuple[Delivery, str]]:
    """The newest deliveries with their lineages' names."""
    query = (
        select(Delivery, Lineage.name)
        .join(Certificate, Certificate.id == Delivery.certificate_id)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(*_filters(state, destination))
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    with database.read() as session:
        return [(delivery, lineage) for delivery, lineage in session.execute(query)]


def count_unfinished(
    database: Database, *, ids: Sequence[int] = (), state: str | None = None, destination: str | None = None
) -> int:
    """How many deliveries `retry` would go through."""
    with database.read() as session:
        wanted = _wanted(ids, state, destination)
        return session.scalar(select(func.count()).select_from(Delivery).where(*wanted)) or 0


def retry(
    database: Database,
    queue: Queue,
    *,
    actor: str,
    ids: Sequence[int] = (),
    state: str | None = None,
    destination: str | None = None,
) -> Iterator[int]:
    """Let deliveries that failed or wait for their next attempt begin at once; yields how many, commit by commit."""
    last = 0
    while True:
        with database.write() as session:
            query = select(Delivery).where(*_wanted(ids, state, destination), Delivery.id > last)
            rows = session.scalars(query.order_by(Delivery.id).limit(BATCH).with_for_update()).all()
            if rows:
                detail = {"deliveries": [row.id for row in rows]}
                record(session, actor=actor, action="deliveries.retried", subject=destination or "all", detail=detail)
            for name in sorted({row.destination for row in rows}):
                _owe(queue, session, {row.certificate_id for row in rows if row.destination == name}, name)
        if not rows:
            return
        last = rows[-1].id
        yield len(rows)


def count_lineages(database: Database, destinations: Mapping[str, Destination], request: RedeliveryRequest) -> int:
    """How many lineages `redeliver` looks through. Raises `PermanentError` if the wish cannot be met."""
    if request.destination not in destinations:
        known = ", ".join(destinations)
        raise PermanentError(f"no destination is named {request.destination!r}; there are {known}")
    with database.read() as session:
        found = session.scalar(select(func.count()).select_from(Lineage).where(*_chosen(session, request))) or 0
    if found == 0 and request.lineage is not None:
        raise PermanentError(f"no lineage is named {request.lineage!r}; `GET /certificates/<id>` shows the name")
    return found


def redeliver(
    database: Database, queue: Queue, destinations: Mapping[str, Destination], request: RedeliveryRequest, *, actor: str
) -> Iterator[Progress]:
    """Owe the newest certificate of each lineage to the destination, where it has not been given it; commit by commit.

    Costs DNSimple no call, but for certificates whose private key is not on record any more: those are fetched again.
    """
    destination = destinations[request.destination]
    last = 0
    while True:
        with database.write() as session:
            newest = _newest(session, request, last)
            owed = _missing(session, [one for one in newest if destination.config.takes(one.names)], request)
            _owe(queue, session, {one.id for one in owed if one.encrypted_key is not None}, request.destination)
            keyless = [one.id for one in owed if one.encrypted_key is None]
            _pending(session, keyless, request.destination)
            enqueue_key_refetch(queue, session, keyless, actor=actor)
            if owed:
                detail = {"certificates": [one.id for one in owed]}
                record(
                    session, actor=actor, action="certificates.redelivered", subject=request.destination, detail=detail
                )
        if not newest:
            return
        last = newest[-1].lineage_id or 0
        yield Progress(len(newest), len(owed))


def _filters(state: str | None, destination: str | None) -> list[ColumnElement[bool]]:
    chosen = []
    if state is not None:
        chosen.append(Delivery.state == state)
    if destination is not None:
        chosen.append(Delivery.destination == destination)
    return chosen


def _wanted(ids: Sequence[int], state: str | None, destination: str | None) -> list[ColumnElement[bool]]:
    ours = [Delivery.id.in_(ids)] if ids else []
    return [Delivery.state.in_(_RETRYABLE), *ours, *_filters(state, destination)]


def _owe(queue: Queue, session: Session, certificate_ids: Collection[int], destination: str) -> None:
    """Their jobs begin now, afresh or early; those that were given up need no attention any more."""
    dead = session.execute(select(Job.id, Job.args).where(Job.kind == JobKind.DELIVER, Job.state == "dead"))
    ours = [
        number
        for number, args in dead
        if args.get("destination") == destination and args.get("certificate_id") in certificate_ids
    ]
    session.execute(update(Job).where(Job.id.in_(ours)).values(state="cancelled"))
    _pending(session, certificate_ids, destination)
    keys = enqueue_deliveries(queue, session, certificate_ids, destination)
    queue.expedite(session, keys)


def _pending(session: Session, certificate_ids: Collection[int], destination: str) -> None:
    rows = [
        {"certificate_id": one, "destination": destination, "state": DeliveryState.PENDING} for one in certificate_ids
    ]
    insert_many_once(session, Delivery, rows, "certificate_id")
    delivery = Delivery.certificate_id.in_(certificate_ids), Delivery.destination == destination
    session.execute(update(Delivery).where(*delivery).values(state=DeliveryState.PENDING, detail=None))


def _missing(session: Session, certificates: Sequence[Certificate], request: RedeliveryRequest) -> list[Certificate]:
    query = select(Delivery.certificate_id, Delivery.state).where(
        Delivery.certificate_id.in_([one.id for one in certificates]), Delivery.destination == request.destination
    )
    states = dict(session.execute(query).all())
    left_alone = set(UNFINISHED_DELIVERIES if request.again else DeliveryState) - {DeliveryState.FAILED}
    return [one for one in certificates if states.get(one.id) not in left_alone]


def _chosen(session: Session, request: RedeliveryRequest) -> list[ColumnElement[bool]]:
    if request.lineage is not None:
        return [Lineage.name == request.lineage]
    if request.certificate_id is None:
        return []
    certificate = session.get(Certificate, request.certificate_id)
    if certificate is None or certificate.lineage_id is None:
        raise PermanentError(f"no certificate with the ID {request.certificate_id} is installed; `GET /certificates`")
    newest = session.scalars(_newest_of(Certificate.lineage_id == certificate.lineage_id)).one()
    if newest.id != certificate.id:
        raise PermanentError(
            f"certificate {certificate.id} has been replaced by {newest.id}, and an older one is never delivered "
            f"over a newer one; name {newest.id}"
        )
    return [Lineage.id == certificate.lineage_id]


def _newest(session: Session, request: RedeliveryRequest, after: int) -> list[Certificate]:
    """The newest installed certificates of some of the lineages beyond `after`."""
    query = _newest_of(*_chosen(session, request), Lineage.id > after)
    return list(session.scalars(query.order_by(Lineage.id).limit(BATCH)))


def _newest_of(*where: ColumnElement[bool]) -> Select[Certificate]:
    return select(Certificate).join(Lineage, Lineage.id == Certificate.lineage_id).where(newest_of_lineage(), *where)
