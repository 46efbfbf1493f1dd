"""Problems become alerts, and alerts become messages: one when it begins, reminders, one when it is over.

What exists is found anew each minute (`problems`), so an alert cannot get stuck. Messages are never a storm: what is
found together is one message for each kind, and after it the kind is silent for a while, however many more come.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.alerts.rules import KINDS, Problem, evaluate_rules, silent_workers
from app.audit import record
from app.db.clock import db_now, read_now
from app.db.models import Alert, Worker
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim
from app.notifications.notifier import NotificationRefusedError
from app.services import Services

log = structlog.get_logger("certcourier.alerts")

SECONDS = 60
_NAMED = 5  # of many problems, so many are named in a message
_LONGEST_DETAIL = 300


def alerts(services: Services, claim: Claim) -> None:
    """Bring the table of alerts up to date and put messages about it on their way, in one commit."""
    with services.database.read() as session:
        found = evaluate_rules(services, session)
    with services.queue.finishing(claim) as session:
        now = read_now(session)
        _settle(session, found, now)
        if services.notifier.addresses:
            _notify_all(services, session, now)


def send_notification(services: Services, claim: Claim) -> None:
    """Send one message to one address. Raises `NotificationFailedError`; then it is tried again."""
    args = claim.args
    try:
        services.notifier.send(args["to"], args["title"], args["body"], good=args["good"])
    except NotificationRefusedError:
        if any(address.id == args["to"] for address in services.notifier.addresses):
            raise
        log.warning("message dropped: its address is not configured any more", address=args["address"])


def open_alerts(services: Services) -> list[Alert]:
    """What is wrong now, the newest last. That no worker is left, no worker can say: that is seen here."""
    query = select(Alert).where(Alert.resolved_at.is_(None), Alert.silenced_at.is_(None), Alert.cleared_at.is_(None))
    with services.database.read() as session:
        found = list(session.scalars(query.order_by(Alert.id)))
        known = {alert.subject for alert in found}
        found += [_alert(problem, problem.since) for problem in silent_workers(session) if problem.subject not in known]
        if (
            session.scalar(select(func.count()).select_from(Worker).where(Worker.last_heartbeat_at > db_now(-SECONDS)))
            == 0
        ):
            now = read_now(session)
            found.append(_alert(_no_worker(now), now))
    return found


def silence(services: Services, alert_id: int, *, actor: str) -> bool:
    """Say no more of this problem, as long as it lasts. False if there is no such open alert."""
    with services.database.write() as session:
        query = select(Alert).where(Alert.id == alert_id, Alert.resolved_at.is_(None), Alert.silenced_at.is_(None))
        alert = session.scalar(query.with_for_update())
        if alert is None:
            return False
        alert.silenced_at = db_now()
        record(session, actor=actor, action="alert.silenced", subject=f"{alert.kind} {alert.subject}")
        return True


def _no_worker(now: datetime) -> Problem:
    return Problem(
        "worker_silent",
        "every worker",
        now,
        "no worker is at work, so nothing else is found out",
        "start `flask worker`",
    )


def _alert(problem: Problem, now: datetime) -> Alert:
    return Alert(
        kind=problem.kind,
        subject=problem.subject[:400],
        since=problem.since,
        detail=problem.detail,
        remedy=problem.remedy,
        raised_at=now,
    )


def _settle(session: Session, found: Sequence[Problem], now: datetime) -> None:
    rows = session.scalars(select(Alert).where(Alert.resolved_at.is_(None)))
    known = {(alert.kind, alert.subject): alert for alert in rows}
    for problem in found:
        alert = known.pop((problem.kind, problem.subject[:400]), None)
        if alert is None:
            session.add(_alert(problem, now))
            log.warning("alert", kind=problem.kind, subject=problem.subject, detail=problem.detail)
        else:
            alert.detail, alert.remedy, alert.cleared_at = problem.detail, problem.remedy, None
    for alert in known.values():
        alert.cleared_at = alert.cleared_at or now
        settle = KINDS[alert.kind].settle_seconds if alert.kind in KINDS else 0.0
        if now - alert.cleared_at >= timedelta(seconds=settle):
            alert.resolved_at = now
            log.info("alert is over", kind=alert.kind, subject=alert.subject)
    session.flush()


def _notify_all(services: Services, session: Session, now: datetime) -> None:
    for kind in KINDS:
        _notify(services, session, kind, now)
        _notify_recovery(services, session, kind, now)


def _notify(services: Services, session: Session, kind: str, now: datetime) -> None:
    ours = Alert.kind == kind, Alert.resolved_at.is_(None), Alert.silenced_at.is_(None), Alert.cleared_at.is_(None)
    still = list(session.scalars(select(Alert).where(*ours).order_by(Alert.id)))
    if not still:
        return
    last = session.scalar(select(func.max(Alert.last_notified_at)).where(Alert.kind == kind))
    fresh = [alert for alert in still if alert.last_notified_at is None]
    if fresh and (last is None or now - last >= _gather(services)):
        notified, note = fresh, f"{len(still)} such problems are open in all." if len(still) > len(fresh) else ""
    elif last is not None and now - last >= timedelta(hours=services.settings.alert_repeat_hours):
        notified, note = still, "This is a reminder."
    else:
        return
    for alert in notified:
        alert.last_notified_at = now
    opening = KINDS[kind].one if len(notified) == 1 else KINDS[kind].many.format(len(notified))
    _send(services, session, opening, _body(notified, note), good=False)


def _notify_recovery(services: Services, session: Session, kind: str, now: datetime) -> None:
    over = list(
        session.scalars(
            select(Alert)
            .where(
                Alert.kind == kind,
                Alert.resolved_at.is_not(None),
                Alert.last_notified_at.is_not(None),
                Alert.recovery_notified_at.is_(None),
            )
            .order_by(Alert.id)
        )
    )
    last = session.scalar(select(func.max(Alert.recovery_notified_at)).where(Alert.kind == kind))
    if not over or (last is not None and now - last < _gather(services)):
        return
    for alert in over:
        alert.recovery_notified_at = now
    left = session.scalar(
        select(func.count())
        .select_from(Alert)
        .where(Alert.kind == kind, Alert.resolved_at.is_(None), Alert.silenced_at.is_(None), Alert.cleared_at.is_(None))
    )
    subjects = [f"- {alert.subject}, since {alert.since:%Y-%m-%d %H:%M} UTC" for alert in over[:_NAMED]]
    rest = [f"and {len(over) - _NAMED} more."] if len(over) > _NAMED else []
    open_still = [f"{left} such problems are still open."] if left else []
    opening = KINDS[kind].one if len(over) == 1 else KINDS[kind].many.format(len(over))
    _send(services, session, f"Over: {opening}", "\n".join([*subjects, *rest, *open_still]), good=True)


def _gather(services: Services) -> timedelta:
    return timedelta(seconds=services.settings.alert_group_seconds)


def _body(notified: Sequence[Alert], note: str) -> str:
    lines = []
    for alert in notified[:_NAMED]:
        lines.append(f"- {alert.subject}, since {alert.since:%Y-%m-%d %H:%M} UTC: {alert.detail[:_LONGEST_DETAIL]}")
        lines.append(f"  What to do: {alert.remedy}.")
    if len(notified) > _NAMED:
        lines.append(f"and {len(notified) - _NAMED} more: `flask alerts list`.")
    return "\n".join([*lines, note] if note else lines)


def _send(services: Services, session: Session, opening: str, body: str, *, good: bool) -> None:
    title = f"Certcourier at {urlsplit(services.settings.public_url).hostname}: {opening}"
    for address in services.notifier.addresses:
        args = {"to": address.id, "address": address.name, "title": title, "body": body, "good": good}
        services.queue.enqueue(session, JobKind.SEND_NOTIFICATION, args)
