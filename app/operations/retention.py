"""Deletes old history in small batches, which block no other transaction for long."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, delete, exists, inspect, or_, select, tuple_, update

from app.audit import SYSTEM, record
from app.db.clock import db_now, read_now
from app.db.models import (
    UNFINISHED_DELIVERIES,
    Alert,
    Base,
    Certificate,
    DashboardSession,
    Delivery,
    DeliveryState,
    Event,
    HookRun,
    IdempotencyKey,
    Job,
    RequestCount,
    Worker,
)
from app.db.upsert import changed_rows
from app.jobs.queue import Claim, Queue
from app.services import Services
from config import Settings

BATCH = 1000
FAILURES = "address:"


def prune(services: Services, claim: Claim) -> None:
    """Delete what is older than the settings permit. Events stay at least three days, since DNSimple may retry one."""
    days, hours = services.settings.retention_days, services.settings.idempotency_key_hours
    before = db_now(-86400.0 * days)
    _delete(services.queue, claim, Event, Event.received_at < before)
    _delete(services.queue, claim, Job, Job.finished_at < before)
    _delete(services.queue, claim, HookRun, HookRun.finished_at < before)
    _delete(services.queue, claim, Alert, Alert.resolved_at < before)
    _delete(services.queue, claim, Worker, Worker.last_heartbeat_at < db_now(-86400.0))
    _delete(services.queue, claim, IdempotencyKey, IdempotencyKey.created_at < db_now(-3600.0 * hours))
    _delete(services.queue, claim, DashboardSession, DashboardSession.expires_at < db_now())
    _delete_request_counts(services.queue, claim)
    _erase_private_keys(services.settings, services.queue, claim)


def _erase_private_keys(settings: Settings, queue: Queue, claim: Claim) -> None:
    """Delete encrypted private keys according to PRIVATE_KEY_RETENTION, and always those of expired certificates.

    A key is kept while a delivery that needs it is pending.
    """
    policy = settings.private_key_retention
    due = Certificate.not_after < db_now()
    if policy == "delivered":
        due = or_(due, and_(_has_delivery(), ~_has_delivery(*UNFINISHED_DELIVERIES, DeliveryState.FAILED)))
    elif policy != "lineage":
        due = or_(due, Certificate.fetched_at < db_now(-86400.0 * int(policy)))
    erased = BATCH
    while erased == BATCH:
        with queue.checkpoint(claim) as session:
            some = select(Certificate.id).where(
                Certificate.encrypted_key.is_not(None), due, ~_has_delivery(*UNFINISHED_DELIVERIES)
            )
            erase = update(Certificate).where(Certificate.id.in_(some.limit(BATCH)))
            erased = changed_rows(session.execute(erase.values(encrypted_key=None)))
            if erased:
                detail = {"count": erased, "policy": policy}
                record(session, actor=SYSTEM, action="private_keys.erased", subject="certificates", detail=detail)


def _has_delivery(*states: DeliveryState) -> ColumnElement[bool]:
    found = exists().where(Delivery.certificate_id == Certificate.id)
    return found.where(Delivery.state.in_(states)) if states else found


def _delete(queue: Queue, claim: Claim, model: type[Base], old: ColumnElement[bool]) -> None:
    key = inspect(model).primary_key
    deleted = BATCH
    while deleted == BATCH:
        with queue.checkpoint(claim) as session:
            some = select(*key).where(old).limit(BATCH)
            deleted = changed_rows(session.execute(delete(model).where(tuple_(*key).in_(some))))


def _delete_request_counts(queue: Queue, claim: Claim) -> None:
    """Delete counts without a request for two minutes. The number of failed logins is recorded in the audit trail."""
    deleted = BATCH
    while deleted == BATCH:
        with queue.checkpoint(claim) as session:
            quiet = RequestCount.minute < int(read_now(session).timestamp() // 60) - 2
            some = select(RequestCount.key).where(quiet).limit(BATCH)
            gone = delete(RequestCount).where(RequestCount.key.in_(some), quiet)
            rows = session.execute(gone.returning(RequestCount.key, RequestCount.total)).all()
            deleted = len(rows)
            failures = [total for key, total in rows if key.startswith(FAILURES)]
            if failures:
                detail = {"failures": sum(failures), "addresses": len(failures)}
                record(session, actor=SYSTEM, action="logins.failed", subject="clients", detail=detail)
