"""Messages about alerts: one when something goes wrong, reminders while it lasts, and one when it is resolved.

Many alerts never become many messages. Those of a kind that are raised together share one message; after it, more of
the kind are gathered for ALERT_GROUP_SECONDS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.alerts.alert import Rule
from app.alerts.rules import RULES
from app.db.models import Alert
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Queue
from app.notifications.notifier import NotificationRefusedError, Notifier
from app.services import Services
from config import Settings

log = structlog.get_logger("certcourier.alerts")

_ALERTS_NAMED = 5  # in one message
_DETAIL_LENGTH = 300
_PAST_TENSE = {
    " is ": " was ",
    " are ": " were ",
    " cannot ": " could not ",
    " serves ": " served ",
    " serve ": " served ",
    " rejects ": " rejected ",
    " refuses ": " refused ",
    " will ": " would ",
}


def enqueue_notifications(
    settings: Settings, queue: Queue, notifier: Notifier, session: Session, now: datetime
) -> None:
    """Enqueue the messages that are due, in the caller's transaction."""
    host = urlsplit(settings.public_url).hostname
    for rule in RULES.values():
        for message in (_raised_message(settings, session, rule, now), _resolved_message(settings, session, rule, now)):
            if message is None:
                continue
            content = {"title": f"Certcourier at {host}: {message.title}", "body": message.body, "good": message.good}
            for address in notifier.addresses:
                args = {"to": address.id, "address": address.name, **content}
                queue.enqueue(session, JobKind.SEND_NOTIFICATION, args)


def send_notification(services: Services, claim: Claim) -> None:
    """Send one message to one address. Raises `NotificationFailedError`; the job is then retried."""
    args = claim.args
    try:
        services.notifier.send(args["to"], args["title"], args["body"], good=args["good"])
    except NotificationRefusedError:
        if any(address.id == args["to"] for address in services.notifier.addresses):
            raise
        log.warning("notification dropped", reason="its address is no longer configured", address=args["address"])


@dataclass(frozen=True, slots=True)
class _Message:
    title: str
    lines: Sequence[str]
    good: bool

    @property
    def body(self) -> str:
        return "\n".join(line for line in self.lines if line)


def _raised_message(settings: Settings, session: Session, rule: Rule, now: datetime) -> _Message | None:
    """New alerts of a kind, or a reminder of all that are open; None if neither is due."""
    active = _select_active(rule).order_by(Alert.id)
    alerts = list(session.scalars(active))
    last = session.scalar(select(func.max(Alert.last_notified_at)).where(Alert.kind == rule.kind))
    new = [alert for alert in alerts if alert.last_notified_at is None]
    if new and (last is None or now - last >= _group_time(settings)):
        named, note = new, f"{len(alerts)} open in total." if len(alerts) > len(new) else ""
    elif alerts and last is not None and now - last >= timedelta(hours=settings.alert_repeat_hours):
        named, note = alerts, "Reminder: this alert was sent before."
    else:
        return None
    lines = []
    for alert in named:
        alert.last_notified_at = now
    for alert in named[:_ALERTS_NAMED]:
        lines.append(f"- {_about(alert)}: {alert.detail[:_DETAIL_LENGTH]}")
        lines.append(f"  What to do: {alert.remedy}.")
    if len(named) > _ALERTS_NAMED:
        lines.append(f"and {len(named) - _ALERTS_NAMED} more: `certcourier alerts list`.")
    return _Message(rule.title(len(named)), [*lines, note], good=False)


def _resolved_message(settings: Settings, session: Session, rule: Rule, now: datetime) -> _Message | None:
    """Alerts of a kind that were notified and have resolved since; None if there are none, or not yet."""
    resolved = select(Alert).where(
        Alert.kind == rule.kind,
        Alert.resolved_at.is_not(None),
        Alert.last_notified_at.is_not(None),
        Alert.recovery_notified_at.is_(None),
    )
    alerts = list(session.scalars(resolved.order_by(Alert.id)))
    last = session.scalar(select(func.max(Alert.recovery_notified_at)).where(Alert.kind == rule.kind))
    if not alerts or (last is not None and now - last < _group_time(settings)):
        return None
    for alert in alerts:
        alert.recovery_notified_at = now
    still_open = session.scalar(select(func.count()).select_from(_select_active(rule).subquery()))
    lines = [f"- {_about(alert)}" for alert in alerts[:_ALERTS_NAMED]]
    if len(alerts) > _ALERTS_NAMED:
        lines.append(f"and {len(alerts) - _ALERTS_NAMED} more.")
    note = f"{still_open} still open." if still_open else ""
    return _Message(f"Resolved: {past_tense(rule.title(len(alerts)))}", [*lines, note], good=True)


def past_tense(title: str) -> str:
    """`3 renewals are overdue` as `3 renewals were overdue`."""
    for present, past in _PAST_TENSE.items():
        title = title.replace(present, past)
    return title


def _select_active(rule: Rule) -> Select[Alert]:
    return select(Alert).where(
        Alert.kind == rule.kind,
        Alert.resolved_at.is_(None),
        Alert.silenced_at.is_(None),
        Alert.cleared_at.is_(None),
    )


def _group_time(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.alert_group_seconds)


def _about(alert: Alert) -> str:
    return f"{alert.subject}, since {alert.since:%Y-%m-%d %H:%M} UTC"
