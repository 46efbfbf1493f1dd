"""Suspension of destinations whose receiver refuses all deliveries, until the operator resumes them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import record
from app.db.database import Database
from app.db.models import Delivery, DeliveryState, Job, JobState, SuspendedDestination
from app.db.upsert import insert_once
from app.destinations.base import DestinationGoneError, DestinationRefusedError
from app.jobs.kinds import JobKind
from app.jobs.queue import Queue
from app.operations.job_retry import retry_job


def suspend_if_gone(session: Session, destination: str, error: Exception) -> None:
    """Suspend the destination, in the caller's transaction, if its receiver answered that it is gone."""
    if isinstance(error, DestinationGoneError):
        insert_once(session, SuspendedDestination, destination=destination, reason=str(error))


def refuse_if_suspended(session: Session, destination: str) -> None:
    """Raise `DestinationRefusedError`, with the reason and the remedy, if the destination is suspended."""
    suspended = session.get(SuspendedDestination, destination)
    if suspended is not None:
        raise DestinationRefusedError(
            f"{destination} is suspended since {suspended.suspended_at:%Y-%m-%d %H:%M} UTC; once its receiver accepts "
            f"deliveries again, run `certcourier destinations resume {destination}`. Last answer: {suspended.reason}"
        )


def resume(database: Database, queue: Queue, destination: str, *, actor: str) -> int | None:
    """Resume the destination and retry what failed there. The number of retries, or None if it was not suspended."""
    with database.write() as session:
        suspended = session.get(SuspendedDestination, destination)
        if suspended is None:
            return None
        session.delete(suspended)
        record(session, actor=actor, action="destination.resumed", subject=destination)
        failed = select(Delivery).filter_by(destination=destination, state=DeliveryState.FAILED)
        failed_ids = {row.certificate_id for row in session.scalars(failed.with_for_update())}
        dead = select(Job).where(
            Job.kind == JobKind.DELIVER, Job.state == JobState.DEAD, Job.args["destination"].as_string() == destination
        )
        retried: set[int] = set()
        for job in session.scalars(dead.order_by(Job.id)):
            certificate_id = int(job.args["certificate_id"])
            if certificate_id in failed_ids and retry_job(queue, session, job.id, actor=actor):
                retried.add(certificate_id)
        return len(retried)
