"""Pages of events, jobs, deliveries and the audit trail for the dashboard, each along an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select

from app.alerts import certificate_conditions
from app.db.database import Database
from app.db.models import (
    AuditEntry,
    Certificate,
    Delivery,
    DeliveryState,
    Job,
    JobState,
    SuspendedDestination,
    TimelineEntry,
)
from app.db.pagination import Page, paginate
from app.destinations.base import Destination
from app.web.dashboard.search import at_most

_NEWEST = 1000


@dataclass(frozen=True, slots=True)
class Jobs:
    """A page of dead jobs, then the running, queued and recently finished ones."""

    dead: Page[Job]
    running: Sequence[Job]
    queued: Sequence[Job]
    finished: Sequence[Job]


@dataclass(frozen=True, slots=True)
class DestinationHealth:
    """`last_delivered_at` is of the newest deliveries; counts end at 1,001."""

    name: str
    kind: str
    pending: int
    failing: int
    failed: int
    last_delivered_at: datetime | None
    newest_failure: Delivery | None
    suspended: SuspendedDestination | None


def list_audit(database: Database, *, cursor: str | None, limit: int) -> Page[AuditEntry]:
    """Audit entries, newest first."""
    with database.read() as session:
        order = {"id": AuditEntry.id}
        return paginate(session, select(AuditEntry), order, cursor=cursor, limit=limit, descending=True)


def list_jobs(database: Database, *, cursor: str | None, limit: int) -> Jobs:
    """`cursor` is that of a page of dead jobs."""
    dead = select(Job).where(Job.state == JobState.DEAD)
    ready = select(Job).where(Job.state == JobState.READY).order_by(Job.priority, Job.run_at)
    finished = (
        select(Job).where(Job.finished_at.is_not(None), Job.state != JobState.DEAD).order_by(Job.finished_at.desc())
    )
    with database.read() as session:
        return Jobs(
            dead=paginate(session, dead, {"id": Job.id}, cursor=cursor, limit=limit, descending=True),
            running=session.scalars(
                select(Job).where(Job.state == JobState.RUNNING).order_by(Job.id).limit(limit)
            ).all(),
            queued=session.scalars(ready.limit(limit)).all(),
            finished=session.scalars(finished.limit(limit)).all(),
        )


def newest_steps(database: Database, limit: int) -> Sequence[TimelineEntry]:
    """The most recent timeline entries of all certificates and orders."""
    with database.read() as session:
        return session.scalars(select(TimelineEntry).order_by(TimelineEntry.id.desc()).limit(limit)).all()


def unsuccessful_deliveries(
    database: Database, destinations: Iterable[str], limit: int
) -> Sequence[tuple[Delivery, str]]:
    """The newest, with their certificates' common names."""
    query = (
        select(Delivery, Certificate.common_name)
        .join(Certificate, Certificate.id == Delivery.certificate_id)
        .where(*certificate_conditions.unsuccessful_deliveries(destinations))
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    with database.read() as session:
        return [(delivery, name) for delivery, name in session.execute(query)]


def destinations_health(database: Database, destinations: Mapping[str, Destination]) -> list[DestinationHealth]:
    """Every configured destination, in the order of the file."""

    def unsuccessful(name: str) -> Select[int]:
        return select(Delivery.id).where(*certificate_conditions.unsuccessful_deliveries([name]))

    newest = select(Delivery.destination, Delivery.delivered_at).order_by(Delivery.id.desc()).limit(_NEWEST).subquery()
    with database.read() as session:
        suspended = {row.destination: row for row in session.scalars(select(SuspendedDestination))}
        by_name = select(newest.c.destination, func.max(newest.c.delivered_at)).group_by(newest.c.destination)
        latest: dict[str, datetime | None] = dict(session.execute(by_name).all())
        return [
            DestinationHealth(
                name=name,
                kind=str(getattr(destination.config, "kind", "")),
                pending=at_most(
                    session,
                    select(Delivery.id).where(
                        Delivery.destination == name, Delivery.is_unfinished(), Delivery.state == DeliveryState.PENDING
                    ),
                ),
                failing=at_most(session, unsuccessful(name).where(Delivery.state == DeliveryState.FAILING)),
                failed=at_most(session, unsuccessful(name).where(Delivery.state == DeliveryState.FAILED)),
                last_delivered_at=latest.get(name),
                newest_failure=session.scalar(
                    unsuccessful(name).with_only_columns(Delivery).order_by(Delivery.id.desc()).limit(1)
                ),
                suspended=suspended.get(name),
            )
            for name, destination in destinations.items()
        ]
