"""Jobs, the workers that run them, and the account's API quota."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.clock import db_now
from app.db.models.base import AutoId, Base
from app.db.models.states import JobState, StateColumn


class Job(Base):
    """A job; see `app.jobs.queue`.

    `run_at` is when a ready job may start; `lease_expires_at` is when another worker may claim a running one.
    """

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    args: Mapped[dict[str, Any]]
    key: Mapped[str | None] = mapped_column(String(120), unique=True)
    priority: Mapped[int] = mapped_column(default=1)
    state: Mapped[JobState] = mapped_column(StateColumn(JobState), default=JobState.READY)
    run_at: Mapped[datetime] = mapped_column(default=db_now())
    lease_expires_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=20)
    snoozes: Mapped[int] = mapped_column(default=0)
    token: Mapped[str | None] = mapped_column(String(32))
    worker_id: Mapped[str | None] = mapped_column(String(40))
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "ix_jobs_ready",
            "priority",
            "run_at",
            sqlite_where=text(f"state = '{JobState.READY}'"),
            postgresql_where=text(f"state = '{JobState.READY}'"),
        ),
        Index(
            "ix_jobs_running",
            "lease_expires_at",
            sqlite_where=text(f"state = '{JobState.RUNNING}'"),
            postgresql_where=text(f"state = '{JobState.RUNNING}'"),
        ),
        Index(
            "ix_jobs_unfinished",
            "kind",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index(None, "finished_at"),
        Index(None, "state"),
    )

    @property
    def args_line(self) -> str:
        """The arguments on one line, without those that are not set."""
        set_args = ((name, value) for name, value in self.args.items() if value is not None and value is not False)
        return " ".join(f"{name}={value}" for name, value in set_args)


class Periodic(Base):
    """The last time slot for which a periodic job was enqueued, by whichever worker came first."""

    __tablename__ = "periodic"

    kind: Mapped[str] = mapped_column(String(40), primary_key=True)
    slot: Mapped[int] = mapped_column(BigInteger)


class Worker(Base):
    """A worker process and its last heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(default=db_now())
    last_heartbeat_at: Mapped[datetime] = mapped_column(default=db_now(), index=True)
    # The IDs of the key-encryption keys that the worker holds.
    key_ids: Mapped[list[str] | None]


class Quota(Base):
    """The account's calls to DNSimple in the current window, shared by all processes."""

    __tablename__ = "quota"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    call_limit: Mapped[int]
    remaining: Mapped[int]
    in_flight: Mapped[int] = mapped_column(default=0)
    unknown_left: Mapped[int]
    window_seconds: Mapped[int]
    reset_at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]
    blocked_reason: Mapped[str | None] = mapped_column(String(100))
    # The digest of a rejected token that blocks calls; a process with another token is not affected.
    blocked_token: Mapped[str | None] = mapped_column(String(16))
