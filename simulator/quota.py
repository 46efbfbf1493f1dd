"""The account's quota: a fixed window that starts with the first call (contract, section 4)."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from simulator.clock import Clock
from simulator.settings import Settings


@dataclass(frozen=True, slots=True)
class Allowance:
    """The quota after a call; `reset` in seconds since 1970."""

    limit: int
    remaining: int
    reset: int
    allowed: bool

    def headers(self) -> dict[str, str]:
        """The headers of every answer."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }


class Quota:
    """Counts calls."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._reset = 0.0
        self._used = 0
        self.refused = 0

    def spend_elsewhere(self, calls: int) -> None:
        """Spend calls of another program with the same account."""
        with self._lock:
            self._begin_window()
            self._used += calls

    def spend(self) -> Allowance:
        """Count a call, unless none is left."""
        with self._lock:
            self._begin_window()
            allowed = self._used < self._settings.rate_limit
            if allowed:
                self._used += 1
            else:
                self.refused += 1
            left = max(0, self._settings.rate_limit - self._used)
            # On the real clock, because clients subtract the Date header, which is not moved forward.
            reset = round(self._reset - self._clock.ahead)
            return Allowance(self._settings.rate_limit, left, reset, allowed)

    def _begin_window(self) -> None:
        now = self._clock.now()
        if now >= self._reset:
            self._reset, self._used = now + self._settings.rate_window, 0
