"""Checks that report the active alerts: the rules decide, this puts what they found into findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from app.alerts.evaluation import active_alerts
from app.alerts.rules import RULES
from app.doctor.findings import CheckContext, CheckFunction, Finding, ok

_MOST, _NAMED = 1000, 5


def alert_findings(context: CheckContext, area: str) -> Iterator[Finding]:
    """One finding for each kind and severity of the area's alerts."""
    found = active_alerts(context.services, area=area, limit=_MOST)
    for (kind, severity), group in groupby(
        sorted(found, key=lambda alert: (alert.severity, alert.kind)), key=lambda alert: (alert.kind, alert.severity)
    ):
        alerts = list(group)
        named = "; ".join(f"{alert.subject}: {alert.detail}" for alert in alerts[:_NAMED])
        more = f"; and {len(alerts) - _NAMED} more: `certcourier alerts list`" if len(alerts) > _NAMED else ""
        meaning = f"{RULES[kind].title(len(alerts))}: {named}{more}"
        yield Finding(severity.value, meaning, alerts[0].remedy, alert=kind)


def check_area(area: str, all_clear: str) -> CheckFunction:
    """A check of nothing but an area's alerts; `all_clear` is the finding without any."""

    def check(context: CheckContext) -> Iterable[Finding]:
        return list(alert_findings(context, area)) or [ok(all_clear)]

    return check
