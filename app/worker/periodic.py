"""Periodic jobs without a leader: time is cut into slots, and the first worker to reach a slot enqueues its job."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from app.db.clock import read_now
from app.db.models import Periodic
from app.db.upsert import changed_rows, insert_once
from app.jobs.queue import LONGEST_RETRY_SECONDS, Priority, Queue


@dataclass(frozen=True, slots=True)
class Every:
    """Enqueue a job of this kind every so many seconds."""

    kind: str
    seconds: int


SCHEDULE = (
    # Together with the share of RECONCILE_PERCENT these stay below 5 % of DNSimple's 2,400 calls an hour.
    Every("register_webhook", 120),
    Every("reconcile", 300),
    Every("prune", 3600),
    Every("check_endpoint", 60),
    Every("evaluate_alerts", 60),
    Every("renew_due", 300),
    Every("refresh_ari", 120),
)


def enqueue_due(session: Session, queue: Queue, schedule: tuple[Every, ...] = SCHEDULE) -> list[str]:
    """Enqueue each periodic job whose slot has begun and that nobody has enqueued for it. Returns their kinds."""
    now = read_now(session).timestamp()
    due = []
    for every in schedule:
        slot = int(now // every.seconds)
        if _take_slot(session, every.kind, slot):
            if not queue.enqueue(session, every.kind, {}, key=every.kind, priority=Priority.BACKGROUND):
                # The last one is not done yet. If it is to start in weeks, the database's clock was ahead then.
                queue.expedite(session, [every.kind], delay=LONGEST_RETRY_SECONDS)
            due.append(every.kind)
    return due


def _take_slot(session: Session, kind: str, slot: int) -> bool:
    if insert_once(session, Periodic, kind=kind, slot=slot):
        return True
    # One far ahead is of a time when the database's clock was ahead; one of the next slot is another worker's.
    is_over = or_(Periodic.slot < slot, Periodic.slot > slot + 1)
    taken = update(Periodic).where(Periodic.kind == kind, is_over).values(slot=slot)
    return changed_rows(session.execute(taken)) == 1
