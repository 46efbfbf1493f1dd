"""Metrics that are read from the database, so that every host reports the same.

Each query is an index range, or one pass over a table of narrow rows; a process reads them at
most once in `METRICS_CACHE_SECONDS`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from sqlalchemy import ColumnElement, Subquery, and_, func, literal, select
from sqlalchemy.orm import Session

from app.alerts.alert import duration
from app.alerts.evaluation import active_alerts
from app.alerts.rules import RULES
from app.alerts.service_conditions import WORKER_SILENCE
from app.certificates.lifetime import ABANDONED_AFTER
from app.certificates.lineages import newest_of_lineage
from app.db.clock import UTCDateTime, epoch, read_now
from app.db.installation_state import WEBHOOK_ID
from app.db.models import Certificate, Delivery, Event, Job, JobState, Lineage, Order, OrderState, Worker
from app.db.models.states import FINAL_ORDER_STATES
from app.dnsimple.quota_state import quota_state
from app.jobs.kinds import JobKind
from app.metrics import event_label
from app.services import Services

_UNFINISHED = [state for state in OrderState if state not in FINAL_ORDER_STATES]
_SECONDS_TO_FETCHED = (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400)
_DAYS_LEFT = (0, 1, 3, 7, 14, 21, 30, 45, 60, 90)
_LIFETIME_LEFT = (0, 5, 10, 20, 25, 30, 50, 75, 100)  # per cent
_RECENT = timedelta(days=1)
_MOST_RECENT = 5000
_MOST_NAMES = 1000


@dataclass(frozen=True, slots=True)
class _Context:
    """What metrics are read with. `now` is the database's time as a constant, so that indexes can be used."""

    session: Session
    services: Services
    now: datetime

    def age(self, instant: datetime | None) -> float | None:
        """Seconds since then."""
        return None if instant is None else (self.now - instant).total_seconds()


class MetricsCollector:
    """Reads the metrics when they are older than the settings allow; one thread reads, the others wait for it."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._metrics: list[Metric] = []

    def collect(self) -> list[Metric]:
        """All metrics. Raises SQLAlchemy's errors when the database does not answer."""
        with self._lock:
            now, max_age = self._clock(), self._services.settings.metrics_cache_seconds
            if self._read_at is None or now - self._read_at >= max_age:
                self._metrics = list(self._read())
                self._read_at = now
            return self._metrics

    def _read(self) -> Iterator[Metric]:
        started = self._clock()
        with self._services.database.read() as session:
            context = _Context(session, self._services, read_now(session))
            for read in _COLLECTORS:
                yield from read(context)
        yield _gauge(
            "certcourier_collector_duration_seconds",
            "Time that reading the metrics from the database took.",
            self._clock() - started,
        )


def _orders(context: _Context) -> Iterable[Metric]:
    counts: dict[str, int] = dict(_rows(context, select(Order.state, func.count()).group_by(Order.state)))
    orders = _labelled("certcourier_orders", "Orders, by state.", "state")
    for state in OrderState:
        orders.add_metric([state], counts.get(state, 0))
    yield orders
    oldest = context.session.scalar(select(func.min(Order.created_at)).where(Order.state.in_(_UNFINISHED)))
    yield _gauge(
        "certcourier_order_oldest_waiting_seconds",
        "Age of the oldest order that is neither fetched nor failed; 0 if there is none.",
        context.age(oldest) or 0.0,
    )


def _fetched_within(context: _Context) -> Iterable[Metric]:
    recent = (
        select(Order.created_at, Certificate.fetched_at)
        .join(Certificate, Certificate.id == Order.certificate_id)
        .where(Order.state == OrderState.FETCHED, Certificate.fetched_at >= context.now - _RECENT)
        .order_by(Order.id.desc())
        .limit(_MOST_RECENT)
    )
    durations = [(fetched - ordered).total_seconds() for ordered, fetched in _rows(context, recent)]
    within = _labelled(
        "certcourier_orders_fetched_last_day",
        "Orders fetched in the last day (of the newest 5,000) within so many seconds of the order; `any`: all of them.",
        "within",
    )
    for seconds in _SECONDS_TO_FETCHED:
        within.add_metric([str(seconds)], sum(1 for duration in durations if duration <= seconds))
    within.add_metric(["any"], len(durations))
    yield within


def _events(context: _Context) -> Iterable[Metric]:
    recent = select(Event.name, Event.outcome, func.count()).where(Event.received_at > context.now - timedelta(hours=1))
    counts: dict[tuple[str, str], int] = {}
    for name, outcome, count in _rows(context, recent.group_by(Event.name, Event.outcome).limit(_MOST_NAMES)):
        label = (event_label(name), outcome)
        counts[label] = counts.get(label, 0) + count
    events = _labelled(
        "certcourier_events_last_hour", "Events received in the last hour, without duplicates.", "name", "outcome"
    )
    for label, count in sorted(counts.items()):
        events.add_metric(list(label), count)
    yield events
    newest = context.session.scalar(select(func.max(Event.received_at)))
    yield _gauge(
        "certcourier_event_newest_age_seconds",
        "Time since the newest event was received; absent if there is none.",
        context.age(newest),
    )


def _deliveries(context: _Context) -> Iterable[Metric]:
    counts = select(Delivery.destination, Delivery.state, func.count()).group_by(Delivery.destination, Delivery.state)
    deliveries = _labelled("certcourier_deliveries", "Deliveries, by destination and state.", "destination", "state")
    for destination, state, count in _rows(context, counts):
        deliveries.add_metric([destination, state], count)
    yield deliveries


def _jobs(context: _Context) -> Iterable[Metric]:
    unfinished = (
        select(Job.kind, Job.state, func.count()).where(Job.finished_at.is_(None)).group_by(Job.kind, Job.state)
    )
    dead = select(Job.kind, Job.state, func.count()).where(Job.state == JobState.DEAD).group_by(Job.kind, Job.state)
    jobs = _labelled("certcourier_jobs", "Jobs that are ready (due now or later), running or dead.", "kind", "state")
    for query in (unfinished, dead):
        for kind, state, count in _rows(context, query):
            jobs.add_metric([kind, state], count)
    yield jobs
    oldest = _labelled(
        "certcourier_job_oldest_due_seconds", "How long the oldest ready job of a kind has been due.", "kind"
    )
    due = select(Job.kind, func.min(Job.run_at)).where(Job.state == JobState.READY).group_by(Job.kind)
    for kind, since in _rows(context, due):
        oldest.add_metric([kind], max(0.0, (context.now - since).total_seconds()))
    yield oldest


def _quota(context: _Context) -> Iterable[Metric]:
    services = context.services
    quota = quota_state(
        context.session, account_id=services.account_id, token_digest=services.token_digest, now=context.now
    )
    until_reset = None if quota is None else max(0.0, -(context.age(quota.resets_at) or 0.0))
    blocked = quota is not None and (quota.paused_until is not None or quota.token_rejected)
    yield _gauge("certcourier_quota_limit", "API calls to DNSimple per window.", None if quota is None else quota.limit)
    yield _gauge(
        "certcourier_quota_remaining",
        "API calls that are left in the window.",
        None if quota is None else quota.remaining,
    )
    yield _gauge("certcourier_quota_reset_seconds", "Time until the window ends.", until_reset)
    yield _gauge("certcourier_quota_blocked", "1 while calls with our token are stopped (401) or paused.", int(blocked))


def _alerts(context: _Context) -> Iterable[Metric]:
    alerts = _labelled("certcourier_alerts", "Active alerts, at most 1,000 of each kind.", "kind", "severity")
    counts = dict.fromkeys(((rule.kind, rule.severity) for rule in RULES.values()), 0)
    for alert in active_alerts(context.services, limit=_MOST_NAMES):
        label = alert.kind, alert.severity
        counts[label] = counts.get(label, 0) + 1
    for (kind, severity), count in counts.items():
        alerts.add_metric([kind, severity], count)
    yield alerts


def _lineages(context: _Context) -> Iterable[Metric]:
    # By its epoch: an index on `not_after` alone would lead to each row, which is wide.
    current = _newest_leaves(
        epoch(Certificate.not_after) > epoch(literal(context.now - ABANDONED_AFTER, UTCDateTime()))
    )
    left = epoch(current.c.not_after) - int(context.now.timestamp())
    lifetime = epoch(current.c.not_after) - epoch(current.c.not_before)
    # Moved above zero and back, so that the division of whole numbers rounds down and what has expired is below 0.
    days_left = ((left + 10 * 86400) // 86400 - 10).label("days_left")
    percent_left = (left * 100 // lifetime).label("percent_left")
    grouped = select(days_left, percent_left, func.count()).group_by(days_left, percent_left)
    counts = [(days, -1 if days < 0 else percent, count) for days, percent, count in _rows(context, grouped)]
    by_days = _labelled(
        "certcourier_lineages_days_left",
        "Lineages whose newest certificate has fewer days left than `below`; `any`: all lineages in use.",
        "below",
    )
    by_share = _labelled(
        "certcourier_lineages_lifetime_left",
        "Lineages whose newest certificate has a smaller share of its lifetime left than `below`, from 0 to 1.",
        "below",
    )
    for days in _DAYS_LEFT:
        by_days.add_metric([str(days)], sum(count for found, _, count in counts if found < days))
    for percent in _LIFETIME_LEFT:
        by_share.add_metric([f"{percent / 100:g}"], sum(count for _, found, count in counts if found < percent))
    for family in (by_days, by_share):
        family.add_metric(["any"], sum(count for *_, count in counts))
        yield family


def _soonest(context: _Context) -> Iterable[Metric]:
    current = _newest_leaves(Certificate.not_after > context.now - ABANDONED_AFTER)
    days = _labelled("certcourier_lineage_days_left", "Days left, for the lineages that expire first.", "lineage")
    share = _labelled(
        "certcourier_lineage_lifetime_left",
        "Share of the lifetime left, for the lineages that expire first.",
        "lineage",
    )
    soonest = (
        select(Lineage.name, current.c.not_before, current.c.not_after)
        .join(current, current.c.lineage_id == Lineage.id)
        .order_by(current.c.not_after)
        .limit(context.services.settings.metrics_lineages)
    )
    for name, not_before, not_after in _rows(context, soonest):
        left = not_after - context.now
        days.add_metric([name], left / timedelta(days=1))
        share.add_metric([name], left / (not_after - not_before))
    return days, share


def _newest_leaves(condition: ColumnElement[bool]) -> Subquery:
    columns = (Certificate.lineage_id, Certificate.not_before, Certificate.not_after)
    return select(*columns).where(newest_of_lineage(), condition).subquery()


def _workers(context: _Context) -> Iterable[Metric]:
    running = select(func.count()).where(Worker.last_heartbeat_at > context.now - WORKER_SILENCE)
    yield _gauge(
        "certcourier_workers",
        f"Workers with a heartbeat in the last {duration(WORKER_SILENCE)}.",
        context.session.scalar(running),
    )
    newest = context.session.scalar(select(func.max(Worker.last_heartbeat_at)))
    yield _gauge(
        "certcourier_worker_heartbeat_age_seconds",
        "Time since the newest heartbeat of a worker; absent if none has been started.",
        context.age(newest),
    )


def _webhook(context: _Context) -> Iterable[Metric]:
    known = WEBHOOK_ID.get(context.session) is not None
    yield _gauge("certcourier_webhook_registered", "1 once our webhook has been registered at DNSimple.", int(known))
    unannounced = and_(Job.kind == JobKind.FETCH_CERTIFICATE, Job.args["request_identifier"].as_string().is_(None))
    found = select(func.count()).select_from(Job).where(Job.finished_at > context.now - _RECENT, unannounced)
    yield _gauge(
        "certcourier_fetches_unannounced_last_day",
        "Certificates fetched in the last day that no event announced: found by reconciliation.",
        context.session.scalar(found),
    )


_COLLECTORS: tuple[Callable[[_Context], Iterable[Metric]], ...] = (
    _orders,
    _fetched_within,
    _events,
    _deliveries,
    _jobs,
    _quota,
    _lineages,
    _soonest,
    _workers,
    _webhook,
    _alerts,
)


def _rows(context: _Context, query: Any) -> list[Any]:
    return [tuple(row) for row in context.session.execute(query)]


def _labelled(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, labels=labels)


def _gauge(name: str, description: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, value=value)
