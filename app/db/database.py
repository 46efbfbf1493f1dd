"""Connections and transactions: one code for the embedded SQLite and for PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session

_WRITES = "certcourier_writes"
SQLITE_BUSY_SECONDS = 30
_MIGRATION_LOCK = 4567


class Database:
    """Provides sessions. `read()` commits nothing; `write()` commits when its block ends without an exception.

    Safe to create before a fork: a child process discards the inherited connections without closing them.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url, pool_size) if self.is_sqlite else _postgresql_engine(url, pool_size)
        # SQLite's writers wait by polling, which is unfair under load: the threads of a process queue here instead.
        self._writer: Any = threading.Lock() if self.is_sqlite else nullcontext()
        os.register_at_fork(after_in_child=self._after_fork)

    @property
    def sqlite_path(self) -> Path | None:
        """The database's file, or None on PostgreSQL."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only session: deferred on SQLite, rolled back at the end."""
        with Session(self.engine, autobegin=True, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together when the block ends, or not at all."""
        with self._writing() as connection, Session(connection, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def migration_connection(self) -> Iterator[Connection]:
        """A transaction for a migration, which excludes every other migration."""
        with self._writing() as connection, connection.begin():
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._writer, self.engine.connect() as connection:
            yield connection.execution_options(**{_WRITES: True})

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()

    def _after_fork(self) -> None:
        self.engine.dispose(close=False)
        if self.is_sqlite:
            self._writer = threading.Lock()


def _postgresql_engine(url: str, pool_size: int) -> Engine:
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        # Prepared statements live in one server session, which PgBouncer's transaction mode does not promise.
        connect_args={"prepare_threshold": None, "connect_timeout": 10, "application_name": "certcourier"},
    )


def _sqlite_engine(url: str, pool_size: int) -> Engine:
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(
        url, pool_size=pool_size, max_overflow=pool_size, connect_args={"timeout": SQLITE_BUSY_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # None: the driver starts no transaction; BEGIN or BEGIN IMMEDIATE is sent below.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # In SQLite, a transaction that reads first and writes later fails instead of waiting. So writers acquire the
        # lock at the start, and readers never block.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
