"""The reference of job kinds."""

from __future__ import annotations

from app.jobs.kinds import JobKind
from tools.reference import markdown

_INTRO = """\
The values of `certcourier jobs list --kind`. [Architecture](../architecture.md#jobs) explains how jobs are claimed,
retried and completed."""


def page() -> str:
    """One row for each kind."""
    rows = [
        (
            f"`{kind}`",
            _period(kind.definition.period_seconds),
            kind.definition.max_attempts,
            markdown.described(kind.definition.summary, f"the job kind {kind}"),
        )
        for kind in JobKind
    ]
    return markdown.page("Job kinds", _INTRO, markdown.table(("Kind", "Runs", "Attempts", "Purpose"), rows))


def _period(seconds: int | None) -> str:
    if seconds is None:
        return "when needed"
    return {60: "every minute", 3600: "hourly"}.get(seconds, f"every {seconds // 60} minutes")
