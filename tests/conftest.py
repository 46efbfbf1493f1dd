"""Fixtures of all tests. A test that takes `database` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.database import Database
from tests.support import databases


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database with current tables."""
    if request.param == "sqlite":
        yield databases.new_sqlite_database(tmp_path)
    else:
        url = databases.new_postgres_database()
        yield url
        databases.drop_postgres_database(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, opened."""
    opened = Database(database_url)
    yield opened
    opened.close()
