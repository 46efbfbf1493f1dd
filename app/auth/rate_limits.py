"""A limit of requests per minute for each key, across all processes and hosts, without a write for each request.

A process takes permits from the key's row in blocks and counts in memory, so the sum never exceeds the limit.
Unused permits expire with the minute: with several processes, a client can be refused up to one block per other process
early. See docs/decisions/0007-request-limits.md.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from app.db.clock import read_now
from app.db.database import Database
from app.db.models import RequestCount
from app.db.upsert import insert_once

_MINUTE = 60.0
_BLOCKS = 20
_MOST_GRANTS = 10_000


@dataclass(slots=True)
class _Grant:
    """Permits until `ends` (monotonic seconds). `exhausted`: the row has no more for this minute."""

    ends: float
    left: int
    exhausted: bool


class RequestLimits:
    """One per process; opens no connection before its first use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._grants: dict[str, _Grant] = {}
        self._lock = threading.Lock()

    def take(self, key: str, per_minute: int) -> float:
        """Count one request: 0 if it is permitted, otherwise the seconds until the next minute begins."""
        wait = self._take_known(key)
        if wait is not None:
            return wait
        fresh = self._take_block(key, per_minute)
        with self._lock:
            known = self._grants.get(key)
            if known is not None and not known.exhausted and time.monotonic() < known.ends:
                fresh.left += known.left  # another thread has taken a block too
            if len(self._grants) >= _MOST_GRANTS:
                self._forget_expired()
            self._grants[key] = fresh
        return self._take_known(key) or 0.0

    def _take_known(self, key: str) -> float | None:
        with self._lock:
            grant, now = self._grants.get(key), time.monotonic()
            if grant is None or now >= grant.ends:
                return None
            if grant.left > 0:
                grant.left -= 1
                return 0.0
            return grant.ends - now if grant.exhausted else None

    def _take_block(self, key: str, per_minute: int) -> _Grant:
        block = max(1, per_minute // _BLOCKS)
        with self._database.write() as session:
            insert_once(session, RequestCount, key=key, minute=0, used=0, total=0)
            row = session.get_one(RequestCount, key, with_for_update=True)
            minute, second = divmod(read_now(session).timestamp(), _MINUTE)
            if not minute <= row.minute <= minute + 1:  # far ahead: the database's clock was corrected
                row.minute, row.used = int(minute), 0
            taken = max(0, min(block, per_minute - row.used))
            row.used += taken
            row.total += taken
            exhausted = row.used >= per_minute
        return _Grant(time.monotonic() + _MINUTE - second, taken, exhausted)

    def _forget_expired(self) -> None:
        """Drop expired grants; under a flood of keys all of them, which costs permits but admits no extra request."""
        now = time.monotonic()
        self._grants = {key: grant for key, grant in self._grants.items() if now < grant.ends}
        if len(self._grants) >= _MOST_GRANTS:
            self._grants.clear()
