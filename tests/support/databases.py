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
from contextlib import suppress
from functools import cache
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from app.db.database import Database
from app.db.migrations import upgrade

_LOCAL = "postgresql://postgres@127.0.0.1:5432/test"
_TEMPLATE = f"certcourier_template_{uuid.uuid4().hex[:12]}"


@cache
def postgres_server() -> str:
    """URL of a PostgreSQL server where databases may be made: TEST_POSTGRES_URL, the local one, or one of our own."""
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
    """A running server that the caller may stop and must remove."""
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
        """Returns when it takes connections."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._control("-o", options, "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        """At once, without a word to those who are connected; what was committed is there after a start."""
        self._control("-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it if it runs, and delete it."""
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


def new_postgres_database() -> str:
    """URL of a fresh database with current tables."""
    name = f"certcourier_test_{uuid.uuid4().hex[:12]}"
    _administer("CREATE DATABASE {} TEMPLATE {}", name, _template())
    return _named(postgres_server(), name)


def drop_postgres_database(url: str) -> None:
    """Drop it, whoever is still connected."""
    _administer("DROP DATABASE {} WITH (FORCE)", url.rpartition("/")[2])


def new_sqlite_database(folder: Path) -> str:
    """URL of a fresh database file with current tables."""
    url = f"sqlite:///{folder / 'certcourier.db'}"
    database = Database(url)
    upgrade(database)
    database.close()
    return url
