"""Retrying dead jobs, where a retry can achieve something."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.audit import record
from app.db.models import Delivery, DeliveryState, Job, JobState
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.jobs.queue import POLLS_ARG, Queue


def retry_job(queue: Queue, session: Session, job_id: int, *, actor: str) -> bool:
    """Queue a dead job again, in the caller's transaction; False if no dead job has this ID.

    Raises `PermanentError` for a kind that cannot be retried; the message names what to do instead.
    """
    job = session.get(Job, job_id, with_for_update=True)
    if job is None or job.state != JobState.DEAD:
        return False
    instead = instead_of_retrying(job.kind)
    if instead:
        raise PermanentError(f"job {job_id} ({job.kind}) cannot be retried: {instead}")
    if not requeue(queue, session, job):
        return False
    record(session, actor=actor, action="job.retried", subject=str(job_id))
    return True


def requeue(queue: Queue, session: Session, job: Job) -> bool:
    """Queue a dead job again with new attempts, and its delivery, if it has one; False if another job is queued for it.

    The caller has verified that a retry can achieve something, and records who asked for it.
    """
    key = None
    if job.kind == JobKind.DELIVER:
        certificate_id, destination = int(job.args["certificate_id"]), str(job.args["destination"])
        key = JobKind.DELIVER.key_for(job.args)
        ours = update(Delivery).where(Delivery.certificate_id == certificate_id, Delivery.destination == destination)
        session.execute(ours.values(state=DeliveryState.PENDING, detail=None))
    if not queue.requeue(session, job.id, key=key):
        return False
    job.args = {name: value for name, value in job.args.items() if name != POLLS_ARG}
    return True


def instead_of_retrying(kind: str) -> str | None:
    """What to do instead, for a kind of job that cannot be retried."""
    known = JobKind.named(kind)
    return known.definition.instead_of_retry if known else None
