"""History that nobody needs any more, deleted in small batches so that nobody waits for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import InstrumentedAttribute

from app.jobs.queue import Claim
from app.services import Services
from app.storage.clock import db_now
from app.storage.models import Event, IdempotencyKey, Job, Worker
from app.storage.statements import changed_rows

BATCH = 1000


def prune(services: Services, claim: Claim) -> None:
    """Delete what is older than the settings say. Events stay at least three days: DNSimple may repeat one."""
    days, hours = services.settings.history_days, services.settings.idempotency_key_hours
    before = db_now(-86400.0 * days)
    _delete(services, claim, Event.id, Event.received_at < before)
    _delete(services, claim, Job.id, Job.finished_at < before)
    _delete(services, claim, Worker.id, Worker.heard_at < db_now(-86400.0))
    _delete(services, claim, IdempotencyKey.order_id, IdempotencyKey.created_at < db_now(-3600.0 * hours))
    with services.queue.finishing(claim):
        return


def _delete(services: Services, claim: Claim, key: InstrumentedAttribute[Any], old: ColumnElement[bool]) -> None:
    deleted = BATCH
    while deleted == BATCH:
        with services.queue.checkpoint(claim) as session:
            some = select(key).where(old).limit(BATCH).scalar_subquery()
            deleted = changed_rows(session.execute(delete(key.class_).where(key.in_(some))))
