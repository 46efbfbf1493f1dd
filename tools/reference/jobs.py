"""Kinds of jobs."""

from __future__ import annotations

from app.jobs.kinds import JobKind
from tools.reference import markdown


def page() -> str:
    """Each kind, and how often the periodic ones come."""
    rows = [(f"`{kind}`", _often(kind.definition.period_seconds), kind.definition.summary) for kind in JobKind]
    return markdown.page(
        "Kinds of jobs",
        "The values of `flask jobs list --kind`. [Architecture](../architecture.md#jobs) explains how jobs are "
        "claimed, retried and marked dead.",
        markdown.table(("Kind", "Runs", "Purpose"), rows),
    )


def _often(seconds: int | None) -> str:
    if seconds is None:
        return "when needed"
    return {60: "every minute", 3600: "hourly"}.get(seconds, f"every {seconds // 60} minutes")
