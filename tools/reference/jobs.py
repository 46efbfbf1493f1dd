"""Kinds of jobs."""

from __future__ import annotations

from app.worker.handlers import HANDLERS
from app.worker.periodic import SCHEDULE
from tools.reference import markdown


def page() -> str:
    """Each kind, and how often the periodic ones come."""
    seconds = {every.kind: every.seconds for every in SCHEDULE}
    rows = [
        (
            f"`{kind}`",
            _often(seconds[kind]) if kind in seconds else "",
            markdown.summary(handler.run, f"the handler of {kind}"),
        )
        for kind, handler in HANDLERS.items()
    ]
    return markdown.page(
        "Kinds of jobs",
        "What `flask jobs list --kind KIND` may be asked for. How jobs are claimed, retried and given up is told in "
        "[architecture](../architecture.md#jobs).",
        markdown.table(("Kind", "Comes by itself", "Does"), rows),
    )


def _often(seconds: int) -> str:
    return (
        f"every {seconds // 60} minutes"
        if seconds < 3600
        else "hourly"
        if seconds == 3600
        else f"every {seconds / 3600:g} hours"
    )
