"""One run for all deliveries that wait: 500 changes make a handful of reloads, and none is missed.

A run is a row. In the transaction that begins it, all deliveries whose certificates are in place are marked with it, so
each is served by a run that started after that, whatever the clocks say. Only one run of a destination goes on at a
time, in whichever process: its row says so, for as long as the job that began it is held. If that job's process dies,
the job's lease ends, whoever looks next takes the run for abandoned and begins another with all that wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session, aliased

from app.db.clock import db_now, read_now
from app.db.models import Certificate, Delivery, HookRun, Job, Lineage
from app.db.upsert import changed_rows, insert_once
from app.destinations.base import (
    Change,
    DeliveryResult,
    Destination,
    DestinationUnavailableError,
    HasPlaces,
    SupportsHookRuns,
)
from app.errors import CertcourierError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Snooze
from app.services import Services

_LONGEST_WAIT_SECONDS = 60.0
_MANY = 500


def delivery_key(certificate_id: int, destination: str) -> str:
    """The key of a delivery's job."""
    return str(JobKind.DELIVER.key_for({"certificate_id": certificate_id, "destination": destination}))


def run_coalesced_hook(
    services: Services, claim: Claim, destination: SupportsHookRuns, delivery_id: int
) -> DeliveryResult:
    """Take part in a run, or make one.

    Raises `Postpone` while another one goes on or it is too early for the next, and the destination's errors once for
    each run that failed.
    """
    run_id = _begin(services, claim, destination, delivery_id)
    if isinstance(run_id, DeliveryResult):
        return run_id
    changes = _changes(services, destination, run_id)
    try:
        said = services.time_limits.run(destination, lambda: destination.run(changes))
    except CertcourierError as error:
        with services.queue.checkpoint(claim) as session:
            _end(session, run_id, "failed", str(error))
            _leave(session, delivery_id, run_id)  # this attempt is counted by the error itself
        raise
    detail = f"{said} (run {run_id}, for {len(changes)} certificates)" if len(changes) > 1 else f"{said} (run {run_id})"
    with services.queue.checkpoint(claim) as session:
        if _end(session, run_id, "succeeded", detail):
            _expedite_served(services, session, run_id)
    return DeliveryResult("delivered", detail)


def places_before(services: Services, destination: Destination, slot: str) -> dict[str, Path]:
    """Where those that this destination comes after have put it."""
    found: dict[str, Path] = {}
    for name in destination.config.after:
        before = services.destinations.get(name)
        if isinstance(before, HasPlaces):
            found |= before.places(slot)
    return found


def _begin(services: Services, claim: Claim, destination: SupportsHookRuns, delivery_id: int) -> int | DeliveryResult:
    """The run that is now ours to make, or what an earlier one has brought."""
    name, growing = destination.config.name, min(_LONGEST_WAIT_SECONDS, 2.0 ** min(claim.snoozes, 6))
    with services.queue.checkpoint(claim) as session:
        # First of all: while its maker puts a run's end on record, we wait here, and then see it.
        going_on = session.scalar(select(HookRun).filter_by(key=name).with_for_update())
        delivery = session.get_one(Delivery, delivery_id)
        served_by = session.get(HookRun, delivery.run_id) if delivery.run_id else None
        if served_by is not None and served_by.state == "succeeded":
            return DeliveryResult("delivered", served_by.detail or "")
        failed = served_by is not None and served_by.state == "failed"
        if served_by is not None and failed:
            _leave(session, delivery_id, served_by.id)
        else:
            wait = _obstacle(session, destination, going_on)
            if wait is None and (run_id := _insert(session, claim, name)):
                marked = update(Delivery).where(Delivery.id.in_(_in_place(destination))).values(run_id=run_id)
                session.execute(marked.execution_options(synchronize_session=False))
                return run_id
    if served_by is not None and failed:  # an attempt of this delivery too, with its own pause before the next
        raise DestinationUnavailableError(served_by.detail or "")
    seconds, reason = wait or (None, f"waits for a run of {name} that has just begun")
    raise Snooze(growing if seconds is None else seconds, reason)


def _insert(session: Session, claim: Claim, name: str) -> int | None:
    begun = insert_once(
        session, HookRun, destination=name, key=name, state="running", job_id=claim.id, token=claim.token
    )
    return session.scalars(select(HookRun.id).filter_by(key=name)).one() if begun else None


def _obstacle(
    session: Session, destination: SupportsHookRuns, going_on: HookRun | None
) -> tuple[float | None, str] | None:
    """How long to wait (None: for as long as it takes) and why, or None when a run may begin."""
    name = destination.config.name
    if going_on is not None:
        held = exists().where(
            Job.id == going_on.job_id,
            Job.token == going_on.token,
            Job.state == "running",
            Job.lease_expires_at > db_now(),
        )
        if session.scalar(select(held)):
            return None, f"waits for run {going_on.id} of {name}"
        going_on.state, going_on.key, going_on.finished_at = "abandoned", None, read_now(session)
        session.flush()
    newest = select(HookRun.started_at).filter_by(destination=name).order_by(HookRun.started_at.desc()).limit(1)
    started = session.scalar(newest)
    passed = (read_now(session) - started).total_seconds() if started else -1.0
    pause = (destination.min_interval_seconds or 0.0) - passed
    if passed >= 0 and pause > 0:
        return pause, f"waits for the next run of {name}: {pause:.1f} seconds (min_interval_seconds)"
    return None


def _in_place(destination: Destination) -> Select[int]:
    """Deliveries that wait for nothing but a run."""
    query = select(Delivery.id).filter_by(destination=destination.config.name, state="pending")
    for name in destination.config.after:
        before = aliased(Delivery)
        query = query.where(
            exists().where(
                before.certificate_id == Delivery.certificate_id,
                before.destination == name,
                before.state == "delivered",
            )
        )
    return query


def _changes(services: Services, destination: Destination, run_id: int) -> list[Change]:
    query = (
        select(Certificate, Lineage.name)
        .join(Delivery, Delivery.certificate_id == Certificate.id)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(Delivery.run_id == run_id)
        .order_by(Certificate.id)
    )
    with services.database.read() as session:
        rows = session.execute(query).all()
    return [change_of(certificate, slot, places_before(services, destination, slot)) for certificate, slot in rows]


def change_of(certificate: Certificate, slot: str, places: Mapping[str, Path]) -> Change:
    """What may be said of it."""
    return Change(
        slot, certificate.id, certificate.common_name, tuple(certificate.names), certificate.fingerprint or "", places
    )


def _end(session: Session, run_id: int, state: Literal["succeeded", "failed"], detail: str) -> bool:
    """Put on record how it ended, unless somebody took it for abandoned."""
    ended = update(HookRun).where(HookRun.id == run_id, HookRun.state == "running")
    values = ended.values(state=state, key=None, detail=detail, finished_at=db_now())
    return changed_rows(session.execute(values)) == 1


def _leave(session: Session, delivery_id: int, run_id: int) -> None:
    left = update(Delivery).where(Delivery.id == delivery_id, Delivery.run_id == run_id).values(run_id=None)
    session.execute(left.execution_options(synchronize_session=False))


def _expedite_served(services: Services, session: Session, run_id: int) -> None:
    """Those whom it served need wait no longer."""
    served = select(Delivery.certificate_id, Delivery.destination).filter_by(run_id=run_id)
    keys = [delivery_key(*row) for row in session.execute(served)]
    for start in range(0, len(keys), _MANY):
        services.queue.expedite(session, keys[start : start + _MANY])
