"""Periodic jobs without a leader: time is divided into slots, and the first worker to reach one enqueues its job."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from app.db.clock import read_now
from app.db.models import Periodic
from app.db.upsert import changed_rows, insert_once
from app.jobs.kinds import PERIODS, JobKind, Priority
from app.jobs.queue import LONGEST_RETRY_SECONDS, Queue


def enqueue_due(session: Session, queue: Queue, periods: Mapping[JobKind, int] = PERIODS) -> list[JobKind]:
    """Enqueue each periodic job whose time slot has started and has no job yet. Returns their kinds."""
    now = read_now(session).timestamp()
    due = []
    for kind, seconds in periods.items():
        if _take_slot(session, kind, int(now // seconds)):
            if not queue.enqueue(session, kind, priority=Priority.BACKGROUND):
                # The previous one is unfinished. If it would start in weeks, the database's clock was ahead then.
                queue.expedite(session, [kind], delay=LONGEST_RETRY_SECONDS)
            due.append(kind)
    return due


def _take_slot(session: Session, kind: JobKind, slot: int) -> bool:
    if insert_once(session, Periodic, kind=kind.value, slot=slot):
        return True
    # A slot far ahead dates from a time when the database's clock was ahead; the next slot was taken by another worker.
    is_stale = or_(Periodic.slot < slot, Periodic.slot > slot + 1)
    taken = update(Periodic).where(Periodic.kind == kind, is_stale).values(slot=slot)
    return changed_rows(session.execute(taken)) == 1
