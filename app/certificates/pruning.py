"""History that nobody needs any more, deleted in small batches so that nobody waits for it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, inspect, select, tuple_

from app.jobs.queue import Claim
from app.services import Services
from app.storage.audit import SYSTEM, record
from app.storage.clock import db_now, read_now
from app.storage.models import Base, DashboardSession, Event, IdempotencyKey, Job, RequestCount, Run, Worker
from app.storage.statements import changed_rows

BATCH = 1000
FAILURES = "address:"


def prune(services: Services, claim: Claim) -> None:
    """Delete what is older than the settings say. Events stay at least three days: DNSimple may repeat one."""
    days, hours = services.settings.history_days, services.settings.idempotency_key_hours
    before = db_now(-86400.0 * days)
    _delete(services, claim, Event, Event.received_at < before)
    _delete(services, claim, Job, Job.finished_at < before)
    _delete(services, claim, Run, Run.finished_at < before)
    _delete(services, claim, Worker, Worker.heard_at < db_now(-86400.0))
    _delete(services, claim, IdempotencyKey, IdempotencyKey.created_at < db_now(-3600.0 * hours))
    _delete(services, claim, DashboardSession, DashboardSession.expires_at < db_now())
    _forget_requests(services, claim)
    with services.queue.finishing(claim):
        return


def _delete(services: Services, claim: Claim, model: type[Base], old: ColumnElement[bool]) -> None:
    key = inspect(model).primary_key
    deleted = BATCH
    while deleted == BATCH:
        with services.queue.checkpoint(claim) as session:
            some = select(*key).where(old).limit(BATCH)
            deleted = changed_rows(session.execute(delete(model).where(tuple_(*key).in_(some))))


def _forget_requests(services: Services, claim: Claim) -> None:
    """Delete the counts of who has been quiet for two minutes. Failed logins leave their sum in the audit trail."""
    deleted = BATCH
    while deleted == BATCH:
        with services.queue.checkpoint(claim) as session:
            quiet = RequestCount.minute < int(read_now(session).timestamp() // 60) - 2
            some = select(RequestCount.key).where(quiet).limit(BATCH)
            gone = delete(RequestCount).where(RequestCount.key.in_(some), quiet)
            rows = session.execute(gone.returning(RequestCount.key, RequestCount.total)).all()
            deleted = len(rows)
            failures = [total for key, total in rows if key.startswith(FAILURES)]
            if failures:
                detail = {"failures": sum(failures), "addresses": len(failures)}
                record(session, actor=SYSTEM, action="logins.failed", subject="clients", detail=detail)
