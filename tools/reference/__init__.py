"""The reference pages of the documentation, made from the code: `make reference` writes docs/reference/.

A test compares what is committed with what these functions make, so nothing can be added to the code and stay
undocumented; what has no description in the code is refused here, not left empty.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.reference import alerts, commands, destinations, events, http, jobs, metrics, problems, settings

PAGES: dict[str, Callable[[], str]] = {
    "settings": settings.page,
    "commands": commands.page,
    "http": http.page,
    "problems": problems.page,
    "events": events.page,
    "destinations": destinations.page,
    "jobs": jobs.page,
    "metrics": metrics.page,
    "alerts": alerts.page,
}
