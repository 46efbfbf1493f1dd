"""What needs attention first, and how things stand: a few index ranges, each counted no further than 1,000."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from app.alerts.rules import KINDS
from app.auth.scopes import only
from app.db.clock import read_now
from app.db.installation_state import WEBHOOK_ID
from app.db.models import (
    Alert,
    Certificate,
    Delivery,
    DeliveryState,
    Event,
    Job,
    Order,
    Quota,
    SuspendedDestination,
    Worker,
)
from app.operations.health import WORKER_SILENT
from app.operations.metrics_collectors import UNFINISHED
from app.services import Services
from app.web.dashboard.search import at_most

_LOW_QUOTA = 0.1
_EXAMPLES = 3
_MILD = {"quota_low", "quota_stopped", "webhook_lost"}
# What a kind of alert is about: concerns about the same are told once.
_SUBJECTS = {
    "issuance_failed": "orders",
    "delivery_failing": "deliveries",
    "renewal_overdue": "renewals",
    "endpoint_stale": "endpoints",
    "endpoint_unreachable": "endpoints",
    "webhook_lost": "webhook",
    "webhook_unchecked": "webhook",
    "quota_low": "quota",
    "quota_stopped": "quota",
    "token_rejected": "quota",
    "job_dead": "jobs",
    "worker_silent": "workers",
}


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that is wrong. `kind` never changes; `count` is how many, one beyond the most that are counted."""

    kind: str
    level: Literal["problem", "warning"]
    count: int
    title: str
    detail: str
    remedy: str
    examples: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class QuotaState:
    """DNSimple's calls in the present window. `stopped_until` is None while calls with our token may be made."""

    limit: int
    remaining: int
    resets_at: datetime | None
    in_flight: int
    unknown_left: int
    stopped_until: datetime | None
    stopped_because: str | None
    token_rejected: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """How things stand. Rows are counted to 1,001 at most. What a limited token may not see is left out."""

    now: datetime
    certificates: int
    orders_in_progress: int
    failing: int
    given_up: int
    quota: QuotaState | None = None
    webhook_id: str | None = None
    webhook_problem: str | None = None
    last_event_at: datetime | None = None
    workers: Sequence[Worker] = ()
    dead_jobs: int = 0
    unfinished_jobs: int = 0
    suspended: Sequence[SuspendedDestination] = ()
    alerts: Sequence[Concern] = ()
    limited: bool = False


def load_overview(services: Services, domains: Sequence[str] | None = None) -> Overview:
    """How everything stands, or that of a reader's domains."""
    with services.database.read() as session:
        now = read_now(session)
        counts = _counts(session, domains)
        if domains is not None:
            return Overview(now, *counts, limited=True)
        return _standing(services, session, now, counts)


def concerns(overview: Overview, late_renewals: int) -> list[Concern]:
    """The worst first. What an alert tells of is not told again, but what has yet to become one is told at once."""
    told = {alert.kind for alert in overview.alerts}
    found = [*overview.alerts, *_about_certificates(overview, late_renewals)]
    if not overview.limited:
        found += _about_machinery(overview)
    kept = [concern for concern in found if concern.kind not in told or concern in overview.alerts]
    return sorted(kept, key=lambda concern: concern.level != "problem")


def quota_state(services: Services, session: Session, now: datetime) -> QuotaState | None:
    """None until the first call has been made."""
    row = session.get(Quota, services.account_id)
    if row is None:
        return None
    over = now >= row.reset_at
    ours = row.blocked_token in {None, services.token_digest}  # another token's stop is none of our calls'
    stopped = row.blocked_until if ours and row.blocked_until and row.blocked_until > now else None
    return QuotaState(
        limit=row.call_limit,
        remaining=row.call_limit if over else row.remaining,
        resets_at=None if over else row.reset_at,
        in_flight=0 if over else row.in_flight,
        unknown_left=row.unknown_left,
        stopped_until=stopped,
        stopped_because=row.blocked_reason if stopped else None,
        token_rejected=stopped is not None and row.blocked_token is not None,
    )


def _counts(session: Session, domains: Sequence[str] | None) -> tuple[int, int, int, int]:
    certificates = select(Certificate.id).where(*only(domains, Certificate.domain))
    orders = select(Order.id).where(Order.state.in_(UNFINISHED), *only(domains, Order.domain))
    failing = select(Delivery.id).where(Delivery.is_unsuccessful(), *_of(domains))
    given_up = failing.where(Delivery.state == DeliveryState.FAILED)
    return (
        at_most(session, certificates),
        at_most(session, orders),
        at_most(session, failing),
        at_most(session, given_up),
    )


def _of(domains: Sequence[str] | None) -> list[ColumnElement[bool]]:
    if domains is None:
        return []
    return [Delivery.certificate_id.in_(select(Certificate.id).where(*only(domains, Certificate.domain)))]


def _standing(services: Services, session: Session, now: datetime, counts: tuple[int, int, int, int]) -> Overview:
    webhook = WEBHOOK_ID.get(session)
    checking = session.scalar(select(Job).where(Job.key == "register_webhook"))
    return Overview(
        now,
        *counts,
        quota=quota_state(services, session, now),
        webhook_id=None if webhook is None else str(webhook),
        webhook_problem=checking.last_error if checking else None,
        last_event_at=session.scalar(select(func.max(Event.received_at))),
        workers=session.scalars(select(Worker).order_by(Worker.last_heartbeat_at.desc()).limit(100)).all(),
        dead_jobs=at_most(session, select(Job.id).where(Job.state == "dead")),
        unfinished_jobs=at_most(session, select(Job.id).where(Job.finished_at.is_(None))),
        suspended=session.scalars(select(SuspendedDestination).order_by(SuspendedDestination.destination)).all(),
        alerts=list(_alerts(session)),
    )


def _about_certificates(overview: Overview, late_renewals: int) -> Iterator[Concern]:
    if overview.given_up:
        remedy = "put right what its line names, then retry its job under Jobs"
        yield Concern(
            "deliveries",
            "problem",
            overview.given_up,
            _number(overview.given_up, "delivery was", "deliveries were") + " given up",
            "",
            remedy,
        )
    if overview.failing > overview.given_up:
        detail, remedy = "what fails is tried again by itself", "see what the destination says"
        count = overview.failing - overview.given_up
        yield Concern(
            "deliveries", "warning", count, _number(count, "delivery is", "deliveries are") + " failing", detail, remedy
        )
    if late_renewals:
        yield Concern(
            "renewals",
            "problem",
            late_renewals,
            _number(late_renewals, "renewal is", "renewals are") + " overdue",
            "the day has passed and there is no successor",
            "look at the domains at DNSimple: delegated, renewed automatically, CAA allows letsencrypt.org?",
        )


def _about_machinery(overview: Overview) -> Iterator[Concern]:
    quota = overview.quota
    if quota is not None and quota.token_rejected:
        remedy = "set a valid DNSIMPLE_API_TOKEN, then restart web and worker"
        yield Concern("quota", "problem", 1, "DNSimple rejects our token", "all calls are stopped", remedy)
    elif quota is not None and quota.stopped_until is not None:
        detail = quota.stopped_because or ""
        yield Concern("quota", "warning", 1, "calls to DNSimple pause", detail, "they go on by themselves")
    elif quota is not None and quota.remaining < quota.limit * _LOW_QUOTA:
        detail = f"{quota.remaining} of {quota.limit} calls are left in this window"
        yield Concern("quota", "warning", 1, "the quota is nearly spent", detail, "what waits goes on at its reset")
    if not any(overview.now - worker.last_heartbeat_at < WORKER_SILENT for worker in overview.workers):
        yield Concern("workers", "problem", 1, "no worker is at work", "nothing gets on", "start `flask worker`")
    if overview.dead_jobs:
        remedy = "mend what its line names, then retry it"
        yield Concern(
            "jobs",
            "problem",
            overview.dead_jobs,
            _number(overview.dead_jobs, "job was", "jobs were") + " given up",
            "",
            remedy,
        )
    if overview.webhook_problem:
        remedy = "see `flask doctor --only webhook`"
        yield Concern("webhook", "warning", 1, "the webhook cannot be checked", overview.webhook_problem, remedy)
    for row in overview.suspended:
        title = f"{row.destination} wants no deliveries"
        yield Concern("destinations", "warning", 1, title, row.reason, "enable it once the other side wants them again")


def _number(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def _alerts(session: Session) -> Iterator[Concern]:
    """Open alerts, one concern for each kind with some of what it is about."""
    is_open = and_(Alert.resolved_at.is_(None), Alert.silenced_at.is_(None), Alert.cleared_at.is_(None))
    for kind, meaning in KINDS.items():
        rows = select(Alert).where(is_open, Alert.kind == kind)
        newest = session.scalars(rows.order_by(Alert.id.desc()).limit(_EXAMPLES)).all()
        if newest:
            count = len(newest) if len(newest) < _EXAMPLES else at_most(session, rows)
            yield Concern(
                kind=_SUBJECTS.get(kind, "alerts"),
                level="warning" if kind in _MILD else "problem",
                count=count,
                title=meaning.one if count == 1 else meaning.many.format("").strip(),
                detail="",
                remedy=newest[0].remedy,
                examples=[f"{alert.subject}: {alert.detail}" for alert in newest],
            )
