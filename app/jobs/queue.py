"""The jobs table: work that survives `kill -9` of any process at any instant.

A claim has a *lease* (how long the job is ours) and a *fencing token* (that it still is). The transaction that
completes a job first verifies the token, and also holds the job's effects: a worker that lost its lease changes
nothing. Effects outside the database happen at least once and have to be idempotent.

All times are the database's (see `app.db.clock`), so the clocks of the hosts do not matter.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.db.database import Database
from app.db.models import Job, JobState
from app.db.upsert import changed_rows, insert_many_once, insert_once
from app.jobs.kinds import JobKind, Priority

CHANNEL = "certcourier_jobs"
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 3600.0
ACCOUNT_BLOCKED = "account blocked: "  # begins the last error of a job that waits for the operator
ACCOUNT_BLOCKED_INTERVAL = timedelta(minutes=5)  # such a job repeats its call this often
POLLS_ARG = "not_yet"  # an argument in which a job counts its own polls; an operator's retry resets it


class LeaseLostError(Exception):
    """The job is no longer ours: its lease expired and another worker claimed it, or it was cancelled."""


class Snooze(Exception):  # noqa: N818, not an error: the job cannot run yet
    """Raised by a handler whose job cannot run yet; does not count as an attempt."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass(slots=True)
class Claim:
    """A job that is ours until its lease ends. `attempts` includes the current one."""

    id: int
    kind: str
    token: str
    args: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1
    max_attempts: int = 20
    snoozes: int = 0
    is_finished: bool = False  # its last transaction is committed

    @classmethod
    def of(cls, job: Job) -> Claim:
        """The claim to a job that is held under its token; to one without, a claim that no transaction accepts."""
        return cls(
            id=job.id,
            kind=job.kind,
            token=job.token or "",
            args=job.args,
            attempts=job.attempts,
            max_attempts=job.max_attempts,
            snoozes=job.snoozes or 0,
        )


class Queue:
    """Enqueues, claims and completes jobs. Every method is one short transaction or part of the caller's."""

    def __init__(self, database: Database, *, lease_seconds: float = 30.0, rng: random.Random | None = None) -> None:
        self._database = database
        self.lease_seconds = lease_seconds
        self._rng = rng or random.Random()  # noqa: S311, jitter is no secret

    def enqueue(
        self,
        session: Session,
        kind: JobKind,
        args: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        priority: Priority | None = None,
        delay: float = 0.0,
    ) -> bool:
        """Add a job in the caller's transaction, to start in `delay` seconds. False if its key is taken.

        A key is taken while an unfinished job has it. `key` and `priority` default to those of the kind.
        """
        args = dict(args or {})
        added = insert_once(
            session,
            Job,
            kind=kind.value,
            args=args,
            key=key or kind.key_for(args),
            priority=int(kind.definition.priority if priority is None else priority),
            run_at=db_now(delay),
            max_attempts=kind.definition.max_attempts,
        )
        if added and delay <= 0:
            self._notify_workers(session)
        return added

    def enqueue_many(self, session: Session, kind: JobKind, args_by_key: Mapping[str, dict[str, Any]]) -> None:
        """Add many jobs that are due immediately, each under its key, as `enqueue` does."""
        definition = kind.definition
        common = {
            "kind": kind.value,
            "priority": int(definition.priority),
            "max_attempts": definition.max_attempts,
        }
        rows = [{**common, "args": args, "key": key} for key, args in args_by_key.items()]
        if insert_many_once(session, Job, rows, "key"):
            self._notify_workers(session)

    def enqueue_claimed(self, session: Session, kind: JobKind, args: dict[str, Any], *, lease_seconds: float) -> Claim:
        """Add a job that the caller runs itself. If the caller dies, a worker takes over when the lease ends."""
        job = Job(
            kind=kind.value,
            args=args,
            priority=int(kind.definition.priority),
            max_attempts=kind.definition.max_attempts,
            state=JobState.RUNNING,
            lease_expires_at=db_now(lease_seconds),
            token=secrets.token_hex(16),
            attempts=1,
        )
        session.add(job)
        session.flush()
        return Claim.of(job)

    def claim(self, limit: int, *, worker_id: str) -> list[Claim]:
        """Take up to `limit` jobs that are due, the most urgent first, for `lease_seconds`."""
        with self._database.read() as session:
            if not self._due(session, limit, lock=False):
                return []
        claims = []
        with self._database.write() as session:
            for job in self._due(session, limit, lock=True):
                job.state = JobState.RUNNING
                job.token = secrets.token_hex(16)
                job.worker_id = worker_id
                job.attempts += 1
                job.lease_expires_at = db_now(self.lease_seconds)
                claims.append(Claim.of(job))
        return claims

    def seconds_until_due(self) -> float | None:
        """How long until the next job can be claimed, or None if there is none."""
        with self._database.read() as session:
            now: datetime = session.execute(select(db_now())).scalar_one()
            earliest = [
                *(select(func.min(Job.run_at)).where(*_is_ready(priority)) for priority in Priority),
                select(func.min(Job.lease_expires_at)).where(Job.state == JobState.RUNNING),
            ]
            soonest: list[datetime] = [at for query in earliest if (at := session.scalar(query)) is not None]
        return max(0.0, (min(soonest) - now).total_seconds()) if soonest else None

    def heartbeat(self, tokens: Iterable[str]) -> None:
        """Extend the leases of jobs in progress."""
        with self._database.write() as session:
            session.execute(
                update(Job)
                .where(Job.token.in_(list(tokens)), Job.state == JobState.RUNNING)
                .values(lease_expires_at=db_now(self.lease_seconds))
            )

    @contextmanager
    def checkpoint(self, claim: Claim, *, lease_seconds: float | None = None) -> Iterator[Session]:
        """A transaction in the middle of a job: committed only if the job is still ours, and renews its lease."""
        with self._database.write() as session:
            self._fence(session, claim, lease_expires_at=db_now(lease_seconds or self.lease_seconds))
            yield session

    @contextmanager
    def finishing(self, claim: Claim) -> Iterator[Session]:
        """The job's last transaction: its effects and its completion are committed together, if it is still ours."""
        with self._database.write() as session:
            self._fence(session, claim, **_finished(JobState.DONE))
            yield session
        claim.is_finished = True

    def complete(self, claim: Claim) -> None:
        """Complete a job whose handler has returned, unless the handler has done so with its last effects."""
        if not claim.is_finished:
            with self.finishing(claim):
                pass

    def retry(self, claim: Claim, error: str, *, delay: float | None = None) -> float:
        """Requeue a failed job with an increasing delay. Returns the delay in seconds."""
        seconds = self.retry_delay(claim.attempts) if delay is None else delay
        with self._database.write() as session:
            self._fence(session, claim, **_ready(seconds), last_error=error)
        return seconds

    def snooze(self, claim: Claim, seconds: float, reason: str) -> None:
        """Requeue a job that cannot run yet; does not count as an attempt."""
        with self._database.write() as session:
            self._fence(
                session,
                claim,
                **_ready(seconds),
                attempts=Job.attempts - 1,
                snoozes=Job.snoozes + 1,
                last_error=reason,
            )

    def release(self, session: Session, claim: Claim, *, delay: float = 0.0) -> None:
        """Hand a claimed job over to the workers, in the caller's transaction."""
        self._fence(session, claim, **_ready(delay))
        if delay <= 0:
            self._notify_workers(session)

    def mark_dead(self, session: Session, claim: Claim, error: str) -> None:
        """Fail a job permanently, in the caller's transaction: it stays visible until it is retried or pruned."""
        self._fence(session, claim, **_finished(JobState.DEAD), last_error=error)

    def requeue(self, session: Session, job_id: int, *, key: str | None = None) -> bool:
        """Requeue a dead job under this key; False if it is not dead or another job has the key."""
        if key is not None and session.scalar(select(Job.id).where(Job.key == key)) is not None:
            return False
        done = session.execute(
            update(Job)
            .where(Job.id == job_id, Job.state == JobState.DEAD)
            .values(**_ready(0.0), finished_at=None, attempts=0, snoozes=0, key=key)
        )
        self._notify_workers(session)
        return changed_rows(done) == 1

    def expedite(self, session: Session, keys: Iterable[str], *, delay: float = 0.0) -> int:
        """Move the start of the queued jobs with these keys forward to `delay` seconds from now, in the caller's
        transaction. Returns how many were moved.

        A job that is just being claimed is skipped, which prevents a deadlock.
        """
        waiting = select(Job.id).where(Job.key.in_(list(keys)), Job.state == JobState.READY, Job.run_at > db_now(delay))
        ids = list(session.scalars(waiting.with_for_update(skip_locked=True)))
        if ids:
            session.execute(update(Job).where(Job.id.in_(ids)).values(run_at=db_now(delay)))
            if delay <= 0:
                self._notify_workers(session)
        return len(ids)

    def cancel(self, session: Session, job_id: int) -> bool:
        """Cancel an unfinished or dead job; a worker that runs it loses its lease."""
        cancellable = Job.state.in_((JobState.READY, JobState.RUNNING, JobState.DEAD))
        done = session.execute(update(Job).where(Job.id == job_id, cancellable).values(**_finished(JobState.CANCELLED)))
        return changed_rows(done) == 1

    def retry_delay(self, attempts: int) -> float:
        """The delay in seconds after the n-th failed attempt: doubling, capped, reduced by up to half at random."""
        longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 30))
        return longest * self._rng.uniform(0.5, 1.0)

    def _due(self, session: Session, limit: int, *, lock: bool) -> list[Job]:
        due: list[Job] = []
        expired = select(Job).where(Job.state == JobState.RUNNING, Job.lease_expires_at <= db_now())
        queries = [expired.order_by(Job.lease_expires_at)]
        for priority in Priority:  # one index range each, so that a long queue of one does not slow the others
            ready = select(Job).where(*_is_ready(priority), Job.run_at <= db_now())
            queries.append(ready.order_by(Job.run_at))
        for query in queries:
            if len(due) < limit:
                page = query.limit(limit - len(due))
                due += session.scalars(page.with_for_update(skip_locked=True) if lock else page)
        return due

    @staticmethod
    def _fence(session: Session, claim: Claim, **changes: Any) -> None:
        ours = update(Job).where(Job.id == claim.id, Job.token == claim.token).values(**changes)
        if changed_rows(session.execute(ours)) != 1:
            raise LeaseLostError(f"job {claim.id} ({claim.kind}) is no longer ours")

    @staticmethod
    def _notify_workers(session: Session) -> None:
        # PostgreSQL notifies the listeners at commit; on SQLite, workers observe the commit itself (`app.jobs.wakeup`).
        if session.get_bind().dialect.name == "postgresql":
            session.execute(select(func.pg_notify(CHANNEL, "")))


def _is_ready(priority: Priority) -> tuple[ColumnElement[bool], ...]:
    return Job.state == JobState.READY, Job.priority == int(priority)


def _ready(delay: float) -> dict[str, Any]:
    return {"state": JobState.READY, "token": None, "lease_expires_at": None, "run_at": db_now(delay)}


def _finished(state: JobState) -> dict[str, Any]:
    return {"state": state, "finished_at": db_now(), "token": None, "lease_expires_at": None, "key": None}
