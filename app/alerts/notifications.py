"""Messages about alerts: one when something goes wrong, reminders while it lasts, and one when it is resolved.

Many alerts never become many messages. Those of a kind that are raised together share one message; after it, more of
the kind are gathered for ALERT_GROUP_SECONDS.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.alerts.alert import Rule
from app.alerts.rules import RULES
from app.db.models import Alert
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim
from app.notifications.notifier import NotificationRefusedError
from app.services import Services

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
    " will ": " would ",
}


def enqueue_notifications(services: Services, session: Session, now: datetime) -> None:
    """Enqueue the messages that are due, in the caller's transaction."""
    for rule in RULES.values():
        _notify_raised(services, session, rule, now)
        _notify_resolved(services, session, rule, now)


def send_notification(services: Services, claim: Claim) -> None:
    """Send one message to one address. Raises `NotificationFailedError`; the job is then retried."""
    args = claim.args
    try:
        services.notifier.send(args["to"], args["title"], args["body"], good=args["good"])
    except NotificationRefusedError:
        if any(address.id == args["to"] for address in services.notifier.addresses):
            raise
        log.warning("notification dropped", reason="its address is no longer configured", address=args["address"])


def _notify_raised(services: Services, session: Session, rule: Rule, now: datetime) -> None:
    active = _select_active(rule).order_by(Alert.id)
    alerts = list(session.scalars(active))
    last = session.scalar(select(func.max(Alert.last_notified_at)).where(Alert.kind == rule.kind))
    new = [alert for alert in alerts if alert.last_notified_at is None]
    if new and (last is None or now - last >= _group_time(services)):
        named, note = new, f"{len(alerts)} open in total." if len(alerts) > len(new) else ""
    elif alerts and last is not None and now - last >= timedelta(hours=services.settings.alert_repeat_hours):
        named, note = alerts, "Reminder: this alert was sent before."
    else:
        return
    lines = []
    for alert in named:
        alert.last_notified_at = now
    for alert in named[:_ALERTS_NAMED]:
        lines.append(f"- {_about(alert)}: {alert.detail[:_DETAIL_LENGTH]}")
        lines.append(f"  What to do: {alert.remedy}.")
    if len(named) > _ALERTS_NAMED:
        lines.append(f"and {len(named) - _ALERTS_NAMED} more: `flask alerts list`.")
    _enqueue(services, session, rule.title(len(named)), [*lines, note], good=False)


def _notify_resolved(services: Services, session: Session, rule: Rule, now: datetime) -> None:
    resolved = select(Alert).where(
        Alert.kind == rule.kind,
        Alert.resolved_at.is_not(None),
        Alert.last_notified_at.is_not(None),
        Alert.recovery_notified_at.is_(None),
    )
    alerts = list(session.scalars(resolved.order_by(Alert.id)))
    last = session.scalar(select(func.max(Alert.recovery_notified_at)).where(Alert.kind == rule.kind))
    if not alerts or (last is not None and now - last < _group_time(services)):
        return
    for alert in alerts:
        alert.recovery_notified_at = now
    still_open = session.scalar(select(func.count()).select_from(_select_active(rule).subquery()))
    lines = [f"- {_about(alert)}" for alert in alerts[:_ALERTS_NAMED]]
    if len(alerts) > _ALERTS_NAMED:
        lines.append(f"and {len(alerts) - _ALERTS_NAMED} more.")
    note = f"{still_open} still open." if still_open else ""
    _enqueue(services, session, f"Resolved: {past_tense(rule.title(len(alerts)))}", [*lines, note], good=True)


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


def _group_time(services: Services) -> timedelta:
    return timedelta(seconds=services.settings.alert_group_seconds)


def _about(alert: Alert) -> str:
    return f"{alert.subject}, since {alert.since:%Y-%m-%d %H:%M} UTC"


def _enqueue(services: Services, session: Session, title: str, lines: Sequence[str], *, good: bool) -> None:
    title = f"Certcourier at {urlsplit(services.settings.public_url).hostname}: {title}"
    body = "\n".join(line for line in lines if line)
    for address in services.notifier.addresses:
        args = {"to": address.id, "address": address.name, "title": title, "body": body, "good": good}
        services.queue.enqueue(session, JobKind.SEND_NOTIFICATION, args)
