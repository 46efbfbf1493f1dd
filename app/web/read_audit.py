"""Reads of a certificate go into the audit trail: a client's first of each certificate in an hour, for each process.

Not every one, so that a client which polls does not fill the trail. Lists are not recorded: they show no PEM texts.
"""

from __future__ import annotations

import threading
import time

from app.audit import record
from app.services import Services

_HOUR = 3600.0
_MOST = 10_000


class ReadAudit:
    """What has been recorded lately."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def note(self, services: Services, actor: str, certificate_id: int) -> None:
        """Record a read unless this one was recorded within the hour."""
        read, now = (actor, certificate_id), time.monotonic()
        with self._lock:
            if now - self._recorded.get(read, -_HOUR) < _HOUR:
                return
        with services.database.write() as session:
            record(session, actor=actor, action="certificate.read", subject=str(certificate_id))
        with self._lock:
            if len(self._recorded) >= _MOST:
                self._recorded.clear()
            self._recorded[read] = now
