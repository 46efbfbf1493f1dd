"""Connections: forks, snapshots, transactions."""

from __future__ import annotations

import os

import pytest
from sqlalchemy import text

from app.db.database import Database
from app.db.models import InstallationState

pytestmark = pytest.mark.both_databases


def test_a_forked_process_opens_its_own_connections(database: Database) -> None:
    """As under gunicorn, which loads the application before it forks."""

    def connection_id() -> str:
        with database.read() as session:
            if database.is_sqlite:
                return str(id(session.connection().connection.driver_connection))
            return str(session.scalar(text("SELECT pg_backend_pid()")))

    ours = connection_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with database.write() as session:
                session.add(InstallationState(name="child", value="was here"))
            os.write(writer, connection_id().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert theirs
    assert theirs != ours
    assert connection_id() == ours
    with database.read() as session:
        assert session.get_one(InstallationState, "child").value == "was here"


def test_a_failed_write_is_rolled_back(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        session.add(InstallationState(name="half", value="x"))
        session.flush()
        raise RuntimeError
    with database.read() as session:
        assert session.get(InstallationState, "half") is None


def test_a_writer_does_not_block_a_reader(database: Database) -> None:
    with database.write() as writing:
        writing.add(InstallationState(name="new", value="x"))
        writing.flush()
        with database.read() as reading:
            assert reading.get(InstallationState, "new") is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_syncs_to_disk_before_a_commit_returns(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
