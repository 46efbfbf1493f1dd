"""The overview: active alerts, then counts. Each count is an index range, read to 1,001 at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.alerts.alert import ActiveAlert, Severity
from app.alerts.certificate_conditions import unsuccessful_deliveries
from app.alerts.evaluation import active_alerts
from app.alerts.rules import RULES
from app.alerts.service_conditions import worker_states
from app.auth.scopes import only
from app.db.clock import read_now
from app.db.installation_state import WEBHOOK_ID
from app.db.models import Certificate, Delivery, Event, Job, Order, OrderState, Worker
from app.db.models.states import FINAL_ORDER_STATES
from app.dnsimple.quota_state import QuotaState, quota_state
from app.jobs.kinds import JobKind
from app.services import Services
from app.web.dashboard.search import MOST, at_most

_EXAMPLES = 3
_WORKERS_SHOWN = 100
_UNFINISHED = [state for state in OrderState if state not in FINAL_ORDER_STATES]


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """The active alerts of a kind. `count` is one beyond the most that are counted when there are more."""

    kind: str
    area: str
    severity: Severity
    count: int
    title: str
    remedy: str
    examples: Sequence[ActiveAlert]


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts end at 1,001. What a domain-restricted token cannot see is left out."""

    now: datetime
    alerts: Sequence[AlertGroup]
    certificates: int
    orders_in_progress: int
    unsuccessful_deliveries: int
    quota: QuotaState | None = None
    webhook_id: int | None = None
    webhook_error: str | None = None
    last_event_at: datetime | None = None
    workers: Sequence[tuple[Worker, str]] = ()
    unfinished_jobs: int = 0

    @property
    def alert_kinds(self) -> set[str]:
        """The kinds of the active alerts."""
        return {group.kind for group in self.alerts}


def load_overview(services: Services, domains: tuple[str, ...] | None = None) -> Overview:
    """The overview of the installation, or of a reader's domains."""
    groups = group_alerts(active_alerts(services, domains=domains, limit=MOST + 1))
    with services.database.read() as session:
        now = read_now(session)
        counts = _count(services, session, domains)
        if domains is not None:
            return Overview(now, groups, *counts)
        return Overview(
            now,
            groups,
            *counts,
            quota=quota_state(session, account_id=services.account_id, token_digest=services.token_digest, now=now),
            webhook_id=WEBHOOK_ID.get(session),
            webhook_error=session.scalar(select(Job.last_error).where(Job.key == JobKind.REGISTER_WEBHOOK)),
            last_event_at=session.scalar(select(func.max(Event.received_at))),
            workers=worker_states(session, now)[:_WORKERS_SHOWN],
            unfinished_jobs=at_most(session, select(Job.id).where(Job.finished_at.is_(None))),
        )


def group_alerts(alerts: Sequence[ActiveAlert]) -> list[AlertGroup]:
    """One group for each kind, those with critical alerts first."""
    groups = []
    for kind, members in groupby(
        sorted(alerts, key=lambda alert: (alert.kind, alert.severity)), lambda alert: alert.kind
    ):
        found = list(members)
        rule, worst = RULES[kind], found[0]
        title = rule.title(len(found), MOST)
        groups.append(AlertGroup(kind, rule.area, worst.severity, len(found), title, worst.remedy, found[:_EXAMPLES]))
    return sorted(groups, key=lambda group: group.severity)


def _count(services: Services, session: Session, domains: tuple[str, ...] | None) -> tuple[int, int, int]:
    certificates = select(Certificate.id).where(*only(domains, Certificate.domain))
    orders = select(Order.id).where(Order.state.in_(_UNFINISHED), *only(domains, Order.domain))
    unsuccessful = select(Delivery.id).where(*unsuccessful_deliveries(services.destinations))
    if domains is not None:
        unsuccessful = unsuccessful.where(Delivery.certificate_id.in_(certificates))
    return at_most(session, certificates), at_most(session, orders), at_most(session, unsuccessful)
