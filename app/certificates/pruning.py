"""History that nobody needs any more, deleted in small batches so that nobody waits for it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, inspect, select, tuple_

from app.jobs.queue import Claim
from app.services import Services
from app.storage.clock import db_now
from app.storage.models import Alarm, Base, Event, IdempotencyKey, Job, Worker
from app.storage.statements import changed_rows

BATCH = 1000


def prune(services: Services, claim: Claim) -> None:
    """Delete what is older than the settings say. Events stay at least three days: DNSimple may repeat one."""
    days, hours = services.settings.history_days, services.settings.idempotency_key_hours
    before = db_now(-86400.0 * days)
    _delete(services, claim, Event, Event.received_at < before)
    _delete(services, claim, Job, Job.finished_at < before)
    _delete(services, claim, Alarm, Alarm.resolved_at < before)
    _delete(services, claim, Worker, Worker.heard_at < db_now(-86400.0))
    _delete(services, claim, IdempotencyKey, IdempotencyKey.created_at < db_now(-3600.0 * hours))
    with services.queue.finishing(claim):
        return


def _delete(services: Services, claim: Claim, model: type[Base], old: ColumnElement[bool]) -> None:
    key = inspect(model).primary_key
    deleted = BATCH
    while deleted == BATCH:
        with services.queue.checkpoint(claim) as session:
            some = select(*key).where(old).limit(BATCH)
            deleted = changed_rows(session.execute(delete(model).where(tuple_(*key).in_(some))))
