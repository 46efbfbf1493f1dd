"""Template filters: instants with their distance, states with a sign beside the colour."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint
from markupsafe import Markup

from app.alerts.alert import Severity
from app.db.models import Certificate
from app.db.models.states import Tone, tone_of
from app.operations.job_retry import instead_of_retrying
from app.web.dashboard.search import MOST

_SIGNS = {Tone.GOOD: "✓", Tone.BAD: "✕", Tone.BUSY: "◷", Tone.QUIET: "-"}
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def register(blueprint: Blueprint) -> None:
    """Add the filters to the templates."""
    for function in (instant, distance, sign, many, lifetime, pairs, instead_of_retrying):
        blueprint.add_app_template_filter(function)
    blueprint.add_app_template_filter(tone_of, "tone")  # the class that colours a state


def instant(moment: datetime | None) -> Markup:
    """UTC, to the second."""
    if moment is None:
        return Markup("-")
    utc = moment.astimezone(UTC)
    machine, people = utc.isoformat(timespec="seconds"), utc.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(machine, people, people)


def distance(moment: datetime | None, now: datetime) -> str:
    """`3 minutes ago`, `in 12 days`."""
    if moment is None:
        return "never"
    seconds = (moment - now).total_seconds()
    for size, unit in _UNITS:
        count = int(abs(seconds) // size)
        if count:
            text = f"{count:,} {unit}{'' if count == 1 else 's'}"
            return f"in {text}" if seconds > 0 else f"{text} ago"
    return "just now" if seconds <= 0 else "in a moment"


def sign(state: str | None) -> str:
    """A sign that distinguishes states without colour."""
    return _SIGNS[tone_of(state)]


def many(count: int) -> str:
    """A count that ends at its maximum: `1,000+`."""
    return f"{MOST:,}+" if count > MOST else f"{count:,}"


def lifetime(certificate: Certificate, now: datetime, overdue: Severity | None = None) -> dict[str, Any] | None:
    """How much of its lifetime is left, for a bar: per cent, whole days, and how overdue its renewal is."""
    if certificate.not_before is None or certificate.not_after is None:
        return None
    whole = (certificate.not_after - certificate.not_before).total_seconds()
    left = (certificate.not_after - now).total_seconds()
    share = max(0.0, min(1.0, left / whole)) if whole > 0 else 0.0
    days = int(left // 86400)
    level = {Severity.CRITICAL: "bad", Severity.WARNING: "busy", None: "good" if left > 0 else "plain"}[overdue]
    text = "expired" if left <= 0 else f"{days} day{'' if days == 1 else 's'} left"
    return {"percent": round(share * 100, 1), "level": level, "text": text, "whole": round(whole / 86400)}


def pairs(arguments: dict[str, Any]) -> str:
    """Details on one line."""
    return " ".join(f"{name}={value}" for name, value in arguments.items() if value is not None)
