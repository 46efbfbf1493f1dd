"""Deliveries to destinations, hook runs, suspensions and endpoint checks."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Index, String, Text, UniqueConstraint, bindparam, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.clock import db_now
from app.db.models.base import AutoId, Base
from app.db.models.states import (
    UNFINISHED_DELIVERIES,
    UNSUCCESSFUL_DELIVERIES,
    DeliveryState,
    EndpointState,
    HookRunState,
    StateColumn,
)


class Delivery(Base):
    """One certificate to one destination.

    `detail`: the result, or why the last attempt failed; `blocked_by`: what the next attempt waits for.
    """

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"))
    destination: Mapped[str] = mapped_column(String(63))
    state: Mapped[DeliveryState] = mapped_column(StateColumn(DeliveryState))
    detail: Mapped[str | None] = mapped_column(Text)
    blocked_by: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None]
    # The hook run that serves this delivery: it started when the certificate was in place.
    run_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    updated_at: Mapped[datetime] = mapped_column(default=db_now(), onupdate=db_now())

    __table_args__ = (
        UniqueConstraint("certificate_id", "destination"),
        Index(
            "ix_deliveries_unfinished",
            "destination",
            sqlite_where=text("state IN ('pending', 'failing')"),
            postgresql_where=text("state IN ('pending', 'failing')"),
        ),
        Index(None, "state"),
    )

    @classmethod
    def is_unfinished(cls) -> ColumnElement[bool]:
        """The condition that an attempt is still due."""
        # As literals: with parameters SQLite does not recognize the partial index.
        return cls.state.in_(bindparam(None, UNFINISHED_DELIVERIES, expanding=True, literal_execute=True))

    @classmethod
    def is_unsuccessful(cls) -> ColumnElement[bool]:
        """The condition that the last attempt failed, whether or not another one is due."""
        return cls.state.in_(UNSUCCESSFUL_DELIVERIES)


class HookRun(Base):
    """One run of a hook for all deliveries that waited.

    It is in progress while the job that started it holds its lease with the same token.
    """

    __tablename__ = "hook_runs"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    destination: Mapped[str] = mapped_column(String(63))
    # The destination's name while the run is in progress, then null: a destination has one run at a time.
    key: Mapped[str | None] = mapped_column(String(63), unique=True)
    state: Mapped[HookRunState] = mapped_column(StateColumn(HookRunState))
    detail: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime] = mapped_column(default=db_now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "destination", "started_at"), Index(None, "finished_at"))


class SuspendedDestination(Base):
    """A destination whose receiver refuses all deliveries, until the operator resumes it."""

    __tablename__ = "suspended_destinations"

    destination: Mapped[str] = mapped_column(String(63), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    suspended_at: Mapped[datetime] = mapped_column(default=db_now())


class EndpointCheck(Base):
    """Whether an endpoint serves the certificate that was delivered for a lineage.

    Its state does not change to stale or unreachable before `deadline_at`.
    """

    __tablename__ = "endpoint_checks"

    lineage_id: Mapped[int] = mapped_column(ForeignKey("lineages.id"), primary_key=True)
    endpoint: Mapped[str] = mapped_column(String(63), primary_key=True)
    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"))
    state: Mapped[EndpointState] = mapped_column(StateColumn(EndpointState))
    since: Mapped[datetime] = mapped_column(default=db_now())
    detail: Mapped[str | None] = mapped_column(Text)
    served_fingerprint: Mapped[str | None] = mapped_column(String(64))
    last_checked_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    deadline_at: Mapped[datetime | None]
    next_check_at: Mapped[datetime] = mapped_column(default=db_now())

    __table_args__ = (Index(None, "endpoint", "next_check_at"), Index(None, "state"))
