"""Coalesced hook runs: one run serves all deliveries that wait, so that 500 changes cause a handful of reloads.

A run is a row. The transaction that starts it marks all deliveries whose certificates are in place with the run's ID,
so each is served by a run that started afterwards, whatever the clocks of the hosts show. A destination has one run at
a time across all processes: the row's unique `key` ensures it while the job that started the run holds its lease. If
that job's process dies, its lease expires; the next job marks the run as abandoned and starts another one for all
deliveries that wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import batched
from pathlib import Path

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session, aliased

from app.db.clock import db_now, read_now
from app.db.database import Database
from app.db.models import Certificate, Delivery, DeliveryState, HookRun, HookRunState, Job, JobState, Lineage
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
from app.jobs.queue import Claim, Queue, Snooze
from app.services import Services

_MAX_WAIT_SECONDS = 60.0
_BATCH = 500


def delivery_key(certificate_id: int, destination: str) -> str:
    """The key of a delivery's job."""
    return str(JobKind.DELIVER.key_for({"certificate_id": certificate_id, "destination": destination}))


def run_coalesced_hook(
    services: Services, claim: Claim, destination: SupportsHookRuns, certificate_id: int
) -> DeliveryResult:
    """Take the result of a run that served this delivery, or start a run.

    Raises `Snooze` while another run is in progress or `min_interval_seconds` have not passed, and the destination's
    errors once for each run that failed.
    """
    run_id = _start(services.queue, claim, destination, certificate_id)
    if isinstance(run_id, DeliveryResult):
        return run_id
    changes = _changes(services.database, services.destinations, destination, run_id)
    try:
        output = services.time_limits.run(destination, lambda: destination.run(changes))
    except CertcourierError as error:
        with services.queue.checkpoint(claim) as session:
            _finish(session, run_id, HookRunState.FAILED, str(error))
            # The error itself counts as this delivery's attempt.
            delivery = _delivery(session, certificate_id, destination.config.name)
            if delivery.run_id == run_id:
                delivery.run_id = None
        raise
    suffix = f"run {run_id}, for {len(changes)} certificates" if len(changes) > 1 else f"run {run_id}"
    detail = f"{output} ({suffix})"
    with services.queue.checkpoint(claim) as session:
        if _finish(session, run_id, HookRunState.SUCCEEDED, detail):
            served = select(Delivery.certificate_id, Delivery.destination).filter_by(run_id=run_id)
            for rows in batched(session.execute(served).all(), _BATCH):
                services.queue.expedite(session, [delivery_key(*row) for row in rows])
    return DeliveryResult("delivered", detail)


def dependency_places(destinations: Mapping[str, Destination], destination: Destination, slot: str) -> dict[str, Path]:
    """The paths at which the destinations in `after` have stored the slot."""
    found: dict[str, Path] = {}
    for name in destination.config.after:
        dependency = destinations.get(name)
        if isinstance(dependency, HasPlaces):
            found |= dependency.places(slot)
    return found


def _start(queue: Queue, claim: Claim, destination: SupportsHookRuns, certificate_id: int) -> int | DeliveryResult:
    """The ID of a run that this job has started, or the result of an earlier one that served this delivery."""
    name = destination.config.name
    with queue.checkpoint(claim) as session:
        # Locked first: if another job is recording this run's end, its commit is visible to all that follows.
        current = session.scalar(select(HookRun).filter_by(key=name).with_for_update())
        delivery = _delivery(session, certificate_id, name)
        served_by = session.get(HookRun, delivery.run_id) if delivery.run_id else None
        if served_by is not None and served_by.state == HookRunState.SUCCEEDED:
            return DeliveryResult("delivered", served_by.detail or "")
        failed = served_by is not None and served_by.state == HookRunState.FAILED
        if served_by is not None and failed:
            delivery.run_id = None
        else:
            wait = _reason_to_wait(session, destination, current)
            if wait is None and (run_id := _insert(session, claim, name)):
                marked = update(Delivery).where(Delivery.id.in_(_in_place(destination))).values(run_id=run_id)
                session.execute(marked.execution_options(synchronize_session=False))
                return run_id
    if served_by is not None and failed:  # counts as an attempt of this delivery, with its own pause before the next
        raise DestinationUnavailableError(served_by.detail or "")
    seconds, reason = wait or (None, f"waits for a run of {name} that has just started")
    raise Snooze(min(_MAX_WAIT_SECONDS, 2.0 ** min(claim.snoozes, 6)) if seconds is None else seconds, reason)


def _delivery(session: Session, certificate_id: int, destination: str) -> Delivery:
    return session.scalars(select(Delivery).filter_by(certificate_id=certificate_id, destination=destination)).one()


def _insert(session: Session, claim: Claim, name: str) -> int | None:
    inserted = insert_once(
        session, HookRun, destination=name, key=name, state=HookRunState.RUNNING, job_id=claim.id, token=claim.token
    )
    return session.scalars(select(HookRun.id).filter_by(key=name)).one() if inserted else None


def _reason_to_wait(
    session: Session, destination: SupportsHookRuns, current: HookRun | None
) -> tuple[float | None, str] | None:
    """How many seconds to wait (None: unknown) and why, or None if a run may start."""
    name = destination.config.name
    if current is not None:
        held = exists().where(
            Job.id == current.job_id,
            Job.token == current.token,
            Job.state == JobState.RUNNING,
            Job.lease_expires_at > db_now(),
        )
        if session.scalar(select(held)):
            return None, f"waits for run {current.id} of {name}"
        current.state, current.key, current.finished_at = HookRunState.ABANDONED, None, read_now(session)
        session.flush()
    newest = select(HookRun.started_at).filter_by(destination=name).order_by(HookRun.started_at.desc()).limit(1)
    started = session.scalar(newest)
    passed = (read_now(session) - started).total_seconds() if started else -1.0
    remaining = (destination.min_interval_seconds or 0.0) - passed
    if passed >= 0 and remaining > 0:
        return remaining, f"waits for the next run of {name}: {remaining:.1f} seconds (min_interval_seconds)"
    return None


def _in_place(destination: Destination) -> Select[int]:
    """Deliveries that wait only for a run: all destinations in `after` hold their certificates."""
    query = select(Delivery.id).where(Delivery.destination == destination.config.name, Delivery.is_unfinished())
    for name in destination.config.after:
        dependency = aliased(Delivery)
        query = query.where(
            exists().where(
                dependency.certificate_id == Delivery.certificate_id,
                dependency.destination == name,
                dependency.state == DeliveryState.DELIVERED,
            )
        )
    return query


def _changes(
    database: Database, destinations: Mapping[str, Destination], destination: Destination, run_id: int
) -> list[Change]:
    query = (
        select(Certificate, Lineage.name)
        .join(Delivery, Delivery.certificate_id == Certificate.id)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(Delivery.run_id == run_id)
        .order_by(Certificate.id)
    )
    with database.read() as session:
        rows = session.execute(query).all()
    return [
        change_of(certificate, slot, dependency_places(destinations, destination, slot)) for certificate, slot in rows
    ]


def change_of(certificate: Certificate, slot: str, places: Mapping[str, Path]) -> Change:
    """What a hook or a receiver may know of the certificate: everything but its PEM texts and its key."""
    return Change(
        slot, certificate.id, certificate.common_name, tuple(certificate.names), certificate.fingerprint or "", places
    )


def _finish(session: Session, run_id: int, state: HookRunState, detail: str) -> bool:
    """Record the run's end; False if another job has marked it as abandoned."""
    running = update(HookRun).where(HookRun.id == run_id, HookRun.state == HookRunState.RUNNING)
    values = running.values(state=state, key=None, detail=detail, finished_at=db_now())
    return changed_rows(session.execute(values)) == 1
