"""The simulator's time: real, or moved forward through the control interface."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Seconds since 1970, UTC."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        """The current time."""
        return time.time() + self.ahead


def as_time(seconds: float | None) -> str | None:
    """`2026-11-23T18:30:00Z`, DNSimple's format of times."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_date(seconds: float | None) -> str | None:
    """`2026-11-23`, DNSimple's format of dates."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
