"""How an idle worker learns within milliseconds that a job was committed; polling the table is only the fallback."""

from __future__ import annotations

import sqlite3
import threading
from typing import Protocol

import psycopg
from sqlalchemy import URL

from app.db.database import Database
from app.jobs.queue import CHANNEL

_LOOK_SECONDS = 0.02


class WakeUp(Protocol):
    """Heard by one thread of a worker."""

    def wait(self, seconds: float) -> bool:
        """Block until somebody may have enqueued a job (True) or `seconds` have passed (False)."""

    def close(self) -> None:
        """Release the connection, and wake nobody."""


def wakeup_for(database: Database) -> WakeUp:
    """The doorbell of this database."""
    path = database.sqlite_path
    return SqliteWakeUp(str(path)) if path else PostgresWakeUp(database.url)


class SqliteWakeUp:
    """Watches SQLite's `data_version`, which changes when another connection of any process commits.

    Reading it is a look into shared memory, no query and no lock: 50 looks a second cost about 1 % of a core
    (docs/decisions/0004-wake-up.md). In return there is no socket or file that a killed process could leave behind.
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._pause = threading.Event()
        self._seen = self._version()

    def wait(self, seconds: float) -> bool:
        looks = max(1, round(seconds / _LOOK_SECONDS))
        try:
            for _ in range(looks):
                version = self._version()
                if version != self._seen:
                    self._seen = version
                    return True
                self._pause.wait(_LOOK_SECONDS)
        except sqlite3.Error:  # a full disk, for instance: whoever listens must not end for it
            self._pause.wait(min(seconds, 1.0))
            return True
        return False

    def close(self) -> None:
        self._connection.close()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


class PostgresWakeUp:
    """LISTEN on a connection of its own. After a lost connection it says "maybe" and listens again."""

    def __init__(self, url: URL) -> None:
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.Connection | None = None
        self._pause = threading.Event()

    def wait(self, seconds: float) -> bool:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=10)
                self._connection.execute(f"LISTEN {CHANNEL}")
                return True  # what was enqueued before we listened
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.OperationalError:
            self.close()
            self._pause.wait(min(seconds, 1.0))
            return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
