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

from app.storage.database import Database
from app.storage.migrating import upgrade

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
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL: set TEST_POSTGRES_URL or install Debian's package `postgresql`")
    return _start(programs[-1].parent)


def _start(programs: Path) -> str:
    """A server of our own on a free port, gone with this process. PostgreSQL refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="certcourier-postgres-"))
    become: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        become = ["runuser", "-u", "postgres", "--"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = [*become, str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust"]
    subprocess.run(run, check=True, capture_output=True)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    control = [*become, str(programs / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True)

    def stop() -> None:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


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
