"""Problems become alarms, and alarms become messages: one when it begins, reminders, one when it is over.

What exists is found anew each minute (`problems`), so an alarm cannot get stuck. Messages are never a storm: what is
found together is one message for each kind, and after it the kind is silent for a while, however many more come.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.alerts.rules import KINDS, Problem, find_problems, silent_workers
from app.audit import record
from app.db.clock import db_now, read_now
from app.db.models import Alarm, Worker
from app.jobs.queue import Claim
from app.notifications.notifier import NotificationRefusedError
from app.services import Services

log = structlog.get_logger("certcourier.alarms")

SECONDS = 60
_NAMED = 5  # of many problems, so many are named in a message
_LONGEST_DETAIL = 300


def alarms(services: Services, claim: Claim) -> None:
    """Bring the table of alarms up to date and put messages about it on their way, in one commit."""
    with services.database.read() as session:
        found = find_problems(services, session)
    with services.queue.finishing(claim) as session:
        now = read_now(session)
        _settle(session, found, now)
        if services.notifier.addresses:
            _tell_all(services, session, now)


def notify(services: Services, claim: Claim) -> None:
    """Send one message to one address. Raises `NotificationFailedError`; then it is tried again."""
    args = claim.args
    try:
        services.notifier.send(args["to"], args["title"], args["body"], good=args["good"])
    except NotificationRefusedError:
        if any(address.id == args["to"] for address in services.notifier.addresses):
            raise
        log.warning("message dropped: its address is not configured any more", address=args["address"])
    with services.queue.finishing(claim):
        return


def open_alarms(services: Services) -> list[Alarm]:
    """What is wrong now, the newest last. That no worker is left, no worker can say: that is seen here."""
    query = select(Alarm).where(Alarm.resolved_at.is_(None), Alarm.dismissed_at.is_(None), Alarm.gone_at.is_(None))
    with services.database.read() as session:
        found = list(session.scalars(query.order_by(Alarm.id)))
        known = {alarm.subject for alarm in found}
        found += [_alarm(problem, problem.since) for problem in silent_workers(session) if problem.subject not in known]
        if session.scalar(select(func.count()).select_from(Worker).where(Worker.heard_at > db_now(-SECONDS))) == 0:
            now = read_now(session)
            found.append(_alarm(_no_worker(now), now))
    return found


def dismiss(services: Services, alarm_id: int, *, actor: str) -> bool:
    """Say no more of this problem, as long as it lasts. False if there is no such open alarm."""
    with services.database.write() as session:
        query = select(Alarm).where(Alarm.id == alarm_id, Alarm.resolved_at.is_(None), Alarm.dismissed_at.is_(None))
        alarm = session.scalar(query.with_for_update())
        if alarm is None:
            return False
        alarm.dismissed_at = db_now()
        record(session, actor=actor, action="alarm.dismissed", subject=f"{alarm.kind} {alarm.subject}")
        return True


def _no_worker(now: datetime) -> Problem:
    return Problem(
        "worker_silent",
        "every worker",
        now,
        "no worker is at work, so nothing else is found out",
        "start `flask worker`",
    )


def _alarm(problem: Problem, now: datetime) -> Alarm:
    return Alarm(
        kind=problem.kind,
        subject=problem.subject[:400],
        since=problem.since,
        detail=problem.detail,
        remedy=problem.remedy,
        raised_at=now,
    )


def _settle(session: Session, found: Sequence[Problem], now: datetime) -> None:
    rows = session.scalars(select(Alarm).where(Alarm.resolved_at.is_(None)))
    known = {(alarm.kind, alarm.subject): alarm for alarm in rows}
    for problem in found:
        alarm = known.pop((problem.kind, problem.subject[:400]), None)
        if alarm is None:
            session.add(_alarm(problem, now))
            log.warning("alarm", kind=problem.kind, subject=problem.subject, detail=problem.detail)
        else:
            alarm.detail, alarm.remedy, alarm.gone_at = problem.detail, problem.remedy, None
    for alarm in known.values():
        alarm.gone_at = alarm.gone_at or now
        settle = KINDS[alarm.kind].settle_seconds if alarm.kind in KINDS else 0.0
        if now - alarm.gone_at >= timedelta(seconds=settle):
            alarm.resolved_at = now
            log.info("alarm is over", kind=alarm.kind, subject=alarm.subject)
    session.flush()


def _tell_all(services: Services, session: Session, now: datetime) -> None:
    for kind in KINDS:
        _tell(services, session, kind, now)
        _tell_recovery(services, session, kind, now)


def _tell(services: Services, session: Session, kind: str, now: datetime) -> None:
    ours = Alarm.kind == kind, Alarm.resolved_at.is_(None), Alarm.dismissed_at.is_(None), Alarm.gone_at.is_(None)
    still = list(session.scalars(select(Alarm).where(*ours).order_by(Alarm.id)))
    if not still:
        return
    last = session.scalar(select(func.max(Alarm.last_told)).where(Alarm.kind == kind))
    fresh = [alarm for alarm in still if alarm.last_told is None]
    if fresh and (last is None or now - last >= _gather(services)):
        told, note = fresh, f"{len(still)} such problems are open in all." if len(still) > len(fresh) else ""
    elif last is not None and now - last >= timedelta(hours=services.settings.notify_reminder_hours):
        told, note = still, "This is a reminder."
    else:
        return
    for alarm in told:
        alarm.last_told = now
    opening = KINDS[kind].one if len(told) == 1 else KINDS[kind].many.format(len(told))
    _send(services, session, opening, _body(told, note), good=False)


def _tell_recovery(services: Services, session: Session, kind: str, now: datetime) -> None:
    over = list(
        session.scalars(
            select(Alarm)
            .where(
                Alarm.kind == kind,
                Alarm.resolved_at.is_not(None),
                Alarm.last_told.is_not(None),
                Alarm.recovery_told_at.is_(None),
            )
            .order_by(Alarm.id)
        )
    )
    last = session.scalar(select(func.max(Alarm.recovery_told_at)).where(Alarm.kind == kind))
    if not over or (last is not None and now - last < _gather(services)):
        return
    for alarm in over:
        alarm.recovery_told_at = now
    left = session.scalar(
        select(func.count())
        .select_from(Alarm)
        .where(Alarm.kind == kind, Alarm.resolved_at.is_(None), Alarm.dismissed_at.is_(None), Alarm.gone_at.is_(None))
    )
    subjects = [f"- {alarm.subject}, since {alarm.since:%Y-%m-%d %H:%M} UTC" for alarm in over[:_NAMED]]
    rest = [f"and {len(over) - _NAMED} more."] if len(over) > _NAMED else []
    open_still = [f"{left} such problems are still open."] if left else []
    opening = KINDS[kind].one if len(over) == 1 else KINDS[kind].many.format(len(over))
    _send(services, session, f"Over: {opening}", "\n".join([*subjects, *rest, *open_still]), good=True)


def _gather(services: Services) -> timedelta:
    return timedelta(seconds=services.settings.notify_gather_seconds)


def _body(told: Sequence[Alarm], note: str) -> str:
    lines = []
    for alarm in told[:_NAMED]:
        lines.append(f"- {alarm.subject}, since {alarm.since:%Y-%m-%d %H:%M} UTC: {alarm.detail[:_LONGEST_DETAIL]}")
        lines.append(f"  What to do: {alarm.remedy}.")
    if len(told) > _NAMED:
        lines.append(f"and {len(told) - _NAMED} more: `flask alarms list`.")
    return "\n".join([*lines, note] if note else lines)


def _send(services: Services, session: Session, opening: str, body: str, *, good: bool) -> None:
    title = f"Certcourier at {urlsplit(services.settings.public_url).hostname}: {opening}"
    for address in services.notifier.addresses:
        args = {"to": address.id, "address": address.name, "title": title, "body": body, "good": good}
        services.queue.enqueue(session, "notify", args)
