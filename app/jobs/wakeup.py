"""Wakes an idle worker within milliseconds of a commit that enqueued a job; polling the table is the fallback."""

from __future__ import annotations

import sqlite3
import threading
from typing import Protocol

import psycopg
from sqlalchemy import URL

from app.db.database import Database
from app.jobs.queue import CHANNEL

_POLL_SECONDS = 0.02


class WakeUp(Protocol):
    """Used by one thread of a worker."""

    def wait(self, seconds: float) -> bool:
        """Block until a job may have been enqueued (True) or `seconds` have passed (False)."""

    def close(self) -> None:
        """Close the connection."""


def wakeup_for(database: Database) -> WakeUp:
    """The wake-up for this kind of database."""
    path = database.sqlite_path
    return SqliteWakeUp(str(path)) if path else PostgresWakeUp(database.url)


class SqliteWakeUp:
    """Watches SQLite's `data_version`, which changes when another connection of any process commits.

    Reading it takes no query and no lock, only shared memory: 50 reads a second cost about 1 % of a core
    (docs/decisions/0004-wake-up.md). A killed process leaves no socket or file behind.
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._pause = threading.Event()
        self._last_version = self._version()

    def wait(self, seconds: float) -> bool:
        polls = max(1, round(seconds / _POLL_SECONDS))
        try:
            for _ in range(polls):
                version = self._version()
                if version != self._last_version:
                    self._last_version = version
                    return True
                self._pause.wait(_POLL_SECONDS)
        except sqlite3.Error:  # such as a full disk, which must not stop the worker
            self._pause.wait(min(seconds, 1.0))
            return True
        return False

    def close(self) -> None:
        self._connection.close()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


class PostgresWakeUp:
    """LISTEN on a separate connection. After a lost connection, reports a possible job and listens again."""

    def __init__(self, url: URL) -> None:
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.Connection | None = None
        self._pause = threading.Event()

    def wait(self, seconds: float) -> bool:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=10)
                self._connection.execute(f"LISTEN {CHANNEL}")
                return True  # a job may have been enqueued before LISTEN
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.OperationalError:
            self.close()
            self._pause.wait(min(seconds, 1.0))
            return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
