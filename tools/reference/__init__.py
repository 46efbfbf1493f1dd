"""The reference pages of the documentation, generated from the code: `make reference` writes docs/reference/.

A test compares the committed pages with the output of these functions, so a new setting, command, endpoint, metric,
alert or job kind cannot stay undocumented. A thing without a description is an error. Descriptions are explicit texts
in the code or in these modules, never docstrings of Python functions and classes.
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
