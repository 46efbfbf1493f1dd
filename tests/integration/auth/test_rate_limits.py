"""Limits that hold for all processes and hosts together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from app.auth import rate_limits
from app.auth.rate_limits import RequestLimits
from app.db.database import Database
from app.db.models import RequestCount

pytestmark = pytest.mark.both_databases


@pytest.fixture(autouse=True)
def _one_long_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of a year, so that none ends within a test."""
    monkeypatch.setattr(rate_limits, "_MINUTE", 86400.0 * 365)


def next_minute(database: Database, *limits: RequestLimits) -> None:
    with database.write() as session:
        session.execute(update(RequestCount).values(minute=RequestCount.minute - 1))
    for each in limits:
        each._grants.clear()


def let_through(limits: RequestLimits, key: str, per_minute: int, tries: int) -> int:
    return sum(limits.take(key, per_minute) == 0 for _ in range(tries))


def test_no_more_requests_than_the_limit_are_accepted(database: Database) -> None:
    assert let_through(RequestLimits(database), "k", 10, 30) == 10


def test_keys_are_counted_separately(database: Database) -> None:
    limits = RequestLimits(database)
    assert let_through(limits, "a", 3, 5) == 3
    assert let_through(limits, "b", 3, 5) == 3


def test_several_processes_share_one_limit(database: Database) -> None:
    first, second = RequestLimits(database), RequestLimits(database)
    assert let_through(first, "k", 10, 6) + let_through(second, "k", 10, 6) + let_through(first, "k", 10, 6) == 10


def test_at_most_the_unused_permits_of_another_process_are_lost(database: Database) -> None:
    idle, busy = RequestLimits(database), RequestLimits(database)
    assert idle.take("k", 100) == 0  # took a block of 5
    assert let_through(busy, "k", 100, 200) == 95


def test_concurrent_threads_get_no_more_than_the_limit(database: Database) -> None:
    processes = [RequestLimits(database), RequestLimits(database)]
    with ThreadPoolExecutor(8) as pool:
        granted = pool.map(lambda number: processes[number % 2].take("k", 50) == 0, range(200))
    assert sum(granted) <= 50


def test_a_new_minute_resets_the_count(database: Database) -> None:
    limits = RequestLimits(database)
    assert let_through(limits, "k", 4, 9) == 4
    next_minute(database, limits)
    assert let_through(limits, "k", 4, 9) == 4


def test_a_clock_that_was_ahead_locks_no_client_out(database: Database) -> None:
    assert let_through(RequestLimits(database), "a", 10, 20) == 10
    with database.write() as session:
        session.execute(update(RequestCount).values(minute=RequestCount.minute + 30 * 24 * 60))
    assert let_through(RequestLimits(database), "a", 10, 20) == 10


def test_a_refused_request_has_retry_after(database: Database) -> None:
    limits = RequestLimits(database)
    limits.take("k", 1)
    assert 0 < limits.take("k", 1) <= rate_limits._MINUTE


def test_a_refused_flood_causes_no_writes(database: Database) -> None:
    limits = RequestLimits(database)
    let_through(limits, "k", 2, 5)
    with database.write() as session:
        session.execute(update(RequestCount).values(used=-1000))
    assert let_through(limits, "k", 2, 5) == 0
    with database.read() as session:
        assert session.scalars(select(RequestCount.used)).one() == -1000


def test_a_flood_of_keys_uses_bounded_memory(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_MOST_GRANTS", 5)
    limits = RequestLimits(database)
    for number in range(20):
        limits.take(f"k{number}", 1)
    assert len(limits._grants) <= 5
    assert limits.take("k0", 1) > 0
