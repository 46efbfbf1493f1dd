"""Audit entries for reads of a certificate: per process, a client's first read of each certificate in an hour.

Not every read, so that polling clients do not fill the trail. Lists are not recorded: they contain no PEM data.
"""

from __future__ import annotations

import threading
import time

from app.audit import record
from app.services import Services

_HOUR = 3600.0
_MAX_ENTRIES = 10_000


class ReadAudit:
    """The reads recorded within the last hour."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def note(self, services: Services, actor: str, certificate_id: int) -> None:
        """Record a read unless it was recorded within the last hour."""
        read, now = (actor, certificate_id), time.monotonic()
        with self._lock:
            if now - self._recorded.get(read, -_HOUR) < _HOUR:
                return
        with services.database.write() as session:
            record(session, actor=actor, action="certificate.read", subject=str(certificate_id))
        with self._lock:
            if len(self._recorded) >= _MAX_ENTRIES:
                self._recorded.clear()
            self._recorded[read] = now
