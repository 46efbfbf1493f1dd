"""Deliveries requested by an operator: retries, and redelivery to a destination that was added or lost its files.

They are enqueued in small transactions, so that they block nothing and a repeated run continues an interrupted one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from app.audit import record
from app.certificates.lineages import newest_of_lineage
from app.db.database import Database
from app.db.models import UNFINISHED_DELIVERIES, Certificate, Delivery, DeliveryState, Job, JobState, Lineage
from app.db.upsert import insert_many_once
from app.deliveries.delivery import enqueue_deliveries
from app.destinations.base import Destination
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.jobs.queue import Queue
from app.operations.job_retry import requeue
from app.operations.key_refetch import enqueue_key_refetch

BATCH = 100
_RETRYABLE = (*UNFINISHED_DELIVERIES, DeliveryState.FAILED)


@dataclass(frozen=True, slots=True)
class RedeliveryRequest:
    """Which certificates to deliver. `again`: also those that have been delivered to the destination."""

    destination: str
    lineage: str | None = None
    certificate_id: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How many lineages of a batch were checked, and how many certificates were queued for delivery."""

    checked: int
    queued: int


def list_deliveries(
    database: Database, *, state: str | None, destination: str | None, limit: int
) -> list[tuple[Delivery, str]]:
    """The newest deliveries with the names of their lineages."""
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
    """How many deliveries `retry` would queue."""
    with database.read() as session:
        conditions = _retryable(ids, state, destination)
        return session.scalar(select(func.count()).select_from(Delivery).where(*conditions)) or 0


def retry(
    database: Database,
    queue: Queue,
    *,
    actor: str,
    ids: Sequence[int] = (),
    state: str | None = None,
    destination: str | None = None,
) -> Iterator[int]:
    """Queue failed and unfinished deliveries for an immediate attempt. Yields the number in each transaction."""
    last = 0
    while True:
        with database.write() as session:
            query = select(Delivery).where(*_retryable(ids, state, destination), Delivery.id > last)
            rows = session.scalars(query.order_by(Delivery.id).limit(BATCH).with_for_update()).all()
            if rows:
                detail = {"deliveries": [row.id for row in rows]}
                record(session, actor=actor, action="deliveries.retried", subject=destination or "all", detail=detail)
            for name in sorted({row.destination for row in rows}):
                _queue(queue, session, {row.certificate_id for row in rows if row.destination == name}, name)
        if not rows:
            return
        last = rows[-1].id
        yield len(rows)


def count_lineages(database: Database, destinations: Mapping[str, Destination], request: RedeliveryRequest) -> int:
    """How many lineages `redeliver` will check. Raises `PermanentError` if the request matches nothing."""
    if request.destination not in destinations:
        known = ", ".join(destinations)
        raise PermanentError(f"unknown destination {request.destination!r}; configured: {known}")
    with database.read() as session:
        found = (
            session.scalar(select(func.count()).select_from(Lineage).where(*_lineage_conditions(session, request))) or 0
        )
    if found == 0 and request.lineage is not None:
        raise PermanentError(f"unknown lineage {request.lineage!r}; `certcourier certificates show ID` shows the name")
    return found


def redeliver(
    database: Database, queue: Queue, destinations: Mapping[str, Destination], request: RedeliveryRequest, *, actor: str
) -> Iterator[Progress]:
    """Queue the newest certificate of each lineage that the destination does not hold, in small transactions.

    Makes no DNSimple call, except for certificates whose private key is no longer stored: it is fetched again.
    """
    destination = destinations[request.destination]
    last = 0
    while True:
        with database.write() as session:
            newest = _newest(session, request, last)
            accepted = [certificate for certificate in newest if destination.config.takes(certificate.names)]
            missing = _missing(session, accepted, request)
            keyless = [certificate.id for certificate in missing if certificate.encrypted_key is None]
            _queue(queue, session, {certificate.id for certificate in missing} - set(keyless), request.destination)
            _set_pending(session, keyless, request.destination)
            enqueue_key_refetch(queue, session, keyless, actor=actor)
            if missing:
                detail = {"certificates": [certificate.id for certificate in missing]}
                record(
                    session, actor=actor, action="certificates.redelivered", subject=request.destination, detail=detail
                )
        if not newest:
            return
        last = newest[-1].lineage_id or 0
        yield Progress(len(newest), len(missing))


def _filters(state: str | None, destination: str | None) -> list[ColumnElement[bool]]:
    conditions = []
    if state is not None:
        conditions.append(Delivery.state == state)
    if destination is not None:
        conditions.append(Delivery.destination == destination)
    return conditions


def _retryable(ids: Sequence[int], state: str | None, destination: str | None) -> list[ColumnElement[bool]]:
    chosen = [Delivery.id.in_(ids)] if ids else []
    return [Delivery.state.in_(_RETRYABLE), *chosen, *_filters(state, destination)]


def _queue(queue: Queue, session: Session, certificate_ids: Collection[int], destination: str) -> None:
    """Start their jobs now; the newest dead job of each is requeued, older ones are cancelled."""
    dead = select(Job).where(
        Job.kind == JobKind.DELIVER, Job.state == JobState.DEAD, Job.args["destination"].as_string() == destination
    )
    for job in session.scalars(dead.order_by(Job.id.desc())).all():
        if job.args["certificate_id"] in certificate_ids and not requeue(queue, session, job):
            queue.cancel(session, job.id)
    _set_pending(session, certificate_ids, destination)
    keys = enqueue_deliveries(queue, session, certificate_ids, destination)
    queue.expedite(session, keys)


def _set_pending(session: Session, certificate_ids: Collection[int], destination: str) -> None:
    rows = [
        {"certificate_id": certificate_id, "destination": destination, "state": DeliveryState.PENDING}
        for certificate_id in certificate_ids
    ]
    insert_many_once(session, Delivery, rows, "certificate_id")
    delivery = Delivery.certificate_id.in_(certificate_ids), Delivery.destination == destination
    session.execute(update(Delivery).where(*delivery).values(state=DeliveryState.PENDING, detail=None))


def _missing(session: Session, certificates: Sequence[Certificate], request: RedeliveryRequest) -> list[Certificate]:
    query = select(Delivery.certificate_id, Delivery.state).where(
        Delivery.certificate_id.in_([certificate.id for certificate in certificates]),
        Delivery.destination == request.destination,
    )
    states = dict(session.execute(query).all())
    unchanged = set(UNFINISHED_DELIVERIES if request.again else DeliveryState) - {DeliveryState.FAILED}
    return [certificate for certificate in certificates if states.get(certificate.id) not in unchanged]


def _lineage_conditions(session: Session, request: RedeliveryRequest) -> list[ColumnElement[bool]]:
    if request.lineage is not None:
        return [Lineage.name == request.lineage]
    if request.certificate_id is None:
        return []
    certificate = session.get(Certificate, request.certificate_id)
    if certificate is None or certificate.lineage_id is None:
        raise PermanentError(
            f"certificate {request.certificate_id} is unknown or not fetched; see `certcourier certificates list`"
        )
    newest = session.scalars(_newest_of(Certificate.lineage_id == certificate.lineage_id)).one()
    if newest.id != certificate.id:
        raise PermanentError(
            f"certificate {certificate.id} has been replaced by {newest.id}, and an older certificate never replaces "
            f"a newer one; redeliver {newest.id}"
        )
    return [Lineage.id == certificate.lineage_id]


def _newest(session: Session, request: RedeliveryRequest, after: int) -> list[Certificate]:
    """The newest certificates of the next lineages after this ID."""
    query = _newest_of(*_lineage_conditions(session, request), Lineage.id > after)
    return list(session.scalars(query.order_by(Lineage.id).limit(BATCH)))


def _newest_of(*where: ColumnElement[bool]) -> Select[Certificate]:
    return select(Certificate).join(Lineage, Lineage.id == Certificate.lineage_id).where(newest_of_lineage(), *where)
