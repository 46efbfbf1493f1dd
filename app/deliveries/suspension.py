"""Destinations whose other side wants no more deliveries: left alone until the operator enables them again."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import record
from app.db.database import Database
from app.db.models import Delivery, DeliveryState, Job, SuspendedDestination
from app.db.upsert import insert_once
from app.destinations.base import DestinationGoneError, DestinationRefusedError
from app.jobs.kinds import JobKind
from app.jobs.queue import Queue
from app.operations.job_retry import retry_job


def suspend_if_gone(session: Session, destination: str, error: Exception) -> None:
    """Note that it is to be left alone, in the caller's transaction, if that is what the error says."""
    if isinstance(error, DestinationGoneError):
        insert_once(session, SuspendedDestination, destination=destination, reason=str(error))


def refuse_if_suspended(session: Session, destination: str) -> None:
    """Raise `DestinationRefusedError` with the reason and the remedy."""
    suspended = session.get(SuspendedDestination, destination)
    if suspended is not None:
        raise DestinationRefusedError(
            f"{destination} is disabled since {suspended.suspended_at:%Y-%m-%d %H:%M} UTC; once the other side wants "
            f"deliveries again, `flask destinations resume {destination}`. It had said: {suspended.reason}"
        )


def resume(database: Database, queue: Queue, destination: str, *, actor: str) -> int | None:
    """Deliver there again, beginning with what failed. How many that are, or None if it was not disabled."""
    with database.write() as session:
        suspended = session.get(SuspendedDestination, destination)
        if suspended is None:
            return None
        session.delete(suspended)
        record(session, actor=actor, action="destination.resumed", subject=destination)
        failed = select(Delivery).filter_by(destination=destination, state=DeliveryState.FAILED)
        owed = {row.certificate_id: row for row in session.scalars(failed.with_for_update())}
        given_up = select(Job).where(
            Job.kind == JobKind.DELIVER, Job.state == "dead", Job.args["destination"].as_string() == destination
        )
        revived: set[int] = set()
        for job in session.scalars(given_up.order_by(Job.id)):
            certificate_id = int(job.args["certificate_id"])
            if certificate_id in owed and retry_job(queue, session, job.id, actor=actor):
                revived.add(certificate_id)
        return len(revived)
