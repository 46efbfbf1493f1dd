"""Fixtures, markers and databases of all tests.

A test that takes `database_url` runs on SQLite. It runs on PostgreSQL as well when its module, or it alone, is marked
`both_databases`, because what it tests depends on the database; with `--all-databases` every such test does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.database import Database
from tests.support import databases

_TESTS = Path(__file__).parent
_MARKERS = {
    "unit": "unit",
    "integration": "integration",
    "simulator": "e2e",
    "simulation": "e2e",
    "e2e": "e2e",
    "browser": "browser",
    "chaos": "chaos",
    "mutants": "chaos",
}
_MEMORY = Path("/dev/shm")  # noqa: S108, pytest makes a folder of its own in it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-databases", action="store_true", help="run every test that uses a database on PostgreSQL as well"
    )


def pytest_configure() -> None:
    """Keep temporary files in memory where there is room: nothing tested needs to survive a power failure."""
    databases.share_compiled_statements()
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the databases of each test."""
    if "database_url" not in metafunc.fixturenames:
        return
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if mark.args[0] == "database_url"]
    if chosen:
        return
    postgresql = pytest.param("postgresql", marks=pytest.mark.postgresql)
    both = metafunc.config.getoption("--all-databases") or metafunc.definition.get_closest_marker("both_databases")
    metafunc.parametrize("database_url", ["sqlite", postgresql] if both else ["sqlite"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the kind that its folder holds."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        item.add_marker(_MARKERS[folder])


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database with current tables."""
    if request.param == "sqlite":
        yield databases.new_sqlite_database(tmp_path)
    else:
        url = databases.new_postgres_database()
        yield url
        databases.release_postgres_database(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, opened."""
    opened = Database(database_url)
    yield opened
    opened.close()
