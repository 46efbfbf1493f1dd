"""Databases for tests: SQLite files; PostgreSQL found, or started from Debian's packages, or skipped with a reason."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections import defaultdict
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.util import LRUCache

from app.db.database import Database
from app.db.migrations import upgrade

_LOCAL = "postgresql://postgres@127.0.0.1:5432/test"
_TEMPLATE = f"certcourier_template_{uuid.uuid4().hex[:12]}"


@cache
def postgres_server() -> str:
    """URL of a server that may create databases: TEST_POSTGRES_URL, the local one, or one of our own."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        return given
    with suppress(psycopg.OperationalError):
        psycopg.connect(_LOCAL, connect_timeout=3).close()
        return _LOCAL
    server = new_postgres_server()
    atexit.register(server.remove)
    return server.url


def new_postgres_server() -> Server:
    """A running server. The caller may stop it and must remove it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL to start (or set TEST_POSTGRES_URL): install Debian's package `postgresql`")
    server = Server(programs[-1].parent)
    server.start()
    return server


class Server:
    """A PostgreSQL server on a port that was free. PostgreSQL refuses to run as root."""

    def __init__(self, programs: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="certcourier-postgres-"))
        self._become: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._become = ["runuser", "-u", "postgres", "--"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._programs = programs
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "postgres", "-A", "trust")

    def start(self) -> None:
        """Start the server; returns when it accepts connections."""
        # Without fsync what was committed survives the end of the server, though not of the machine.
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control("-o", options, "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        """Stop immediately, without waiting for clients; committed transactions survive a restart."""
        self._control("-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop the server if it runs, and delete its data."""
        with suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._become, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True)


def _named(url: str, name: str) -> str:
    return url.rpartition("/")[0] + "/" + name


def _administer(statement: str, *names: str) -> None:
    with psycopg.connect(postgres_server(), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@cache
def _template() -> str:
    _administer("CREATE DATABASE {}", _TEMPLATE)
    atexit.register(lambda: _administer("DROP DATABASE {} WITH (FORCE)", _TEMPLATE))
    database = Database(_named(postgres_server(), _TEMPLATE))
    upgrade(database)
    database.close()
    return _TEMPLATE


_unused: list[str] = []


def new_postgres_database() -> str:
    """URL of an empty database with current tables; give it back with `release_postgres_database`."""
    if _unused:
        return _unused.pop()
    name = f"certcourier_test_{uuid.uuid4().hex[:12]}"
    _administer("CREATE DATABASE {} TEMPLATE {}", name, _template())
    atexit.register(_administer, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
    return _named(postgres_server(), name)


def release_postgres_database(url: str) -> None:
    """Disconnect all clients and empty it for another test, which takes a tenth of the time of a new database.

    One whose tables are not as the template's is not used again.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        if _schema(connection) == _schema_of_template():
            connection.execute(_empty_all(connection))
            _unused.append(url)


def _schema(connection: psycopg.Connection[Any]) -> list[Any]:
    query = """
        SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'alembic_version', version_num, '' FROM alembic_version
        UNION ALL SELECT tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
        ORDER BY 1, 2, 3
    """
    try:
        return connection.execute(query).fetchall()
    except psycopg.errors.UndefinedTable:
        return []  # a test has dropped all tables


@cache
def _schema_of_template() -> list[Any]:
    with psycopg.connect(_named(postgres_server(), _template())) as connection:
        return _schema(connection)


def _empty_all(connection: psycopg.Connection[Any]) -> sql.Composed:
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    sequences = connection.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'").fetchall()
    # "replica" silences triggers: the audit trail refuses deletion, and foreign keys want an order.
    return sql.SQL(";").join(
        [
            sql.SQL("SET session_replication_role = replica"),
            *(sql.SQL("DELETE FROM {}").format(sql.Identifier(n)) for (n,) in tables if n != "alembic_version"),
            *(sql.SQL("SELECT setval({}, 1, false)").format(n) for (n,) in sequences),
        ]
    )


@cache
def _sqlite_template() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="certcourier-sqlite-")
    atexit.register(folder.cleanup)
    file = Path(folder.name) / "template.db"
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    database.close()
    return file


def new_sqlite_database(folder: Path) -> str:
    """URL of a new database file with current tables."""
    file = folder / "certcourier.db"
    shutil.copy(_sqlite_template(), file)
    return f"sqlite:///{file}"


def share_compiled_statements() -> None:
    """Let all engines of this process share compiled statements: each test has new engines, with equal dialects.

    Without it, compiling the same statements again in each test takes longer than running them.
    """
    shared: dict[type, LRUCache[Any, Any]] = defaultdict(lambda: LRUCache(2000))
    for dialect in (SQLiteDialect, PGDialect):
        setattr(dialect, "__eq__", lambda one, other: type(one) is type(other))  # noqa: B010, as mypy wants it
        setattr(dialect, "__hash__", lambda one: hash(type(one)))  # noqa: B010, likewise

    @event.listens_for(Engine, "engine_connect")
    def _share(connection: Connection) -> None:
        connection.engine._compiled_cache = shared[type(connection.dialect)]
