"""The active alerts, as every view reads them, and the record of them that a job keeps.

The rules are evaluated whenever a view reads them, so that no view lags behind or depends on a worker. The table of
alerts only adds what the rules cannot know: since when, whether it was silenced, and what was notified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import batched

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.alerts.alert import ROWS_AT_A_TIME, ActiveAlert
from app.alerts.notifications import enqueue_notifications
from app.alerts.rules import RULES, evaluate_rules, rule_context
from app.audit import record
from app.db.clock import db_now, read_now
from app.db.database import Database
from app.db.models import Alert
from app.jobs.queue import Claim
from app.services import Services

log = structlog.get_logger("certcourier.alerts")


def active_alerts(
    services: Services, *, area: str | None = None, domains: tuple[str, ...] | None = None, limit: int | None = None
) -> list[ActiveAlert]:
    """What is wrong now and not silenced, critical alerts first; of one area, and at most `limit` of a kind.

    `domains` are the patterns that the reader is limited to. Rules about other things than certificates are then
    left out.
    """
    with services.database.read() as session:
        found = evaluate_rules(rule_context(services, session, domains), area=area, limit=limit)
        rows = _open_rows(session, found)
    shown = []
    for alert in found:
        row = rows.get((alert.kind, alert.subject))
        if row is None:
            shown.append(alert)
        elif row.silenced_at is None:
            shown.append(replace(alert, id=row.id, since=row.since, last_notified_at=row.last_notified_at))
    return sorted(shown, key=lambda alert: alert.severity)


def evaluate_alerts(services: Services, claim: Claim) -> None:
    """Bring the table of alerts up to date and enqueue notifications about the changes, in one commit."""
    with services.database.read() as session:
        found = evaluate_rules(rule_context(services, session))
    # A worker that evaluates `no_worker` disproves it: it has only not sent its heartbeat yet.
    found = [alert for alert in found if not RULES[alert.kind].blocks_readiness]
    with services.queue.finishing(claim) as session:
        now = read_now(session)
        _record(session, found, now)
        if services.notifier.addresses:
            enqueue_notifications(services.settings, services.queue, services.notifier, session, now)


def silence(database: Database, alert_id: int, *, actor: str) -> bool:
    """Silence an alert until it resolves. False if no open alert has this ID."""
    with database.write() as session:
        query = select(Alert).where(Alert.id == alert_id, Alert.resolved_at.is_(None), Alert.silenced_at.is_(None))
        alert = session.scalar(query.with_for_update())
        if alert is None:
            return False
        alert.silenced_at = db_now()
        record(session, actor=actor, action="alert.silenced", subject=f"{alert.kind} {alert.subject}")
        return True


def _open_rows(session: Session, found: Sequence[ActiveAlert]) -> dict[tuple[str, str], Alert]:
    rows: dict[tuple[str, str], Alert] = {}
    for subjects in batched({alert.subject for alert in found}, ROWS_AT_A_TIME):
        query = select(Alert).where(Alert.resolved_at.is_(None), Alert.subject.in_(subjects))
        rows |= {(row.kind, row.subject): row for row in session.scalars(query)}
    return rows


def _record(session: Session, found: Sequence[ActiveAlert], now: datetime) -> None:
    rows = session.scalars(select(Alert).where(Alert.resolved_at.is_(None)))
    known = {(row.kind, row.subject): row for row in rows}
    for alert in found:
        row = known.pop((alert.kind, alert.subject), None)
        if row is None:
            values = {name: getattr(alert, name) for name in ("kind", "subject", "since", "detail", "remedy")}
            session.add(Alert(**values, raised_at=now))
            log.warning("alert raised", kind=alert.kind, subject=alert.subject, detail=alert.detail)
        else:
            row.detail, row.remedy, row.cleared_at = alert.detail, alert.remedy, None
    for row in known.values():
        row.cleared_at = row.cleared_at or now
        settles = RULES[row.kind].settles if row.kind in RULES else timedelta(0)
        if now - row.cleared_at >= settles:
            row.resolved_at = now
            log.info("alert resolved", kind=row.kind, subject=row.subject)
    session.flush()
