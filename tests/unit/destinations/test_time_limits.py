"""Destinations that hang: abandoned after their time limit, and not used until they have ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
)
from app.destinations.time_limits import TimeLimits

MAX_CONCURRENCY = 4

DONE = DeliveryResult("delivered", "there")


class Place:
    """A destination of which only name and time limit matter: tests hand in what it does."""

    def __init__(self, config: str, timeout_seconds: float = 30.0) -> None:
        self.config = DestinationConfig(name=config, timeout_seconds=timeout_seconds, max_concurrency=MAX_CONCURRENCY)

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError


class Hang:
    """Does not end before it is let go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.let_go = threading.Event()

    def __call__(self) -> DeliveryResult:
        self.began.release()
        self.let_go.wait()
        return DONE


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.let_go.set()


def helpers(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"destination-{name}"]


def test_what_ends_in_time_gives_its_result_or_its_error() -> None:
    limits = TimeLimits()
    assert limits.run(Place("quick"), lambda: DONE) is DONE

    def refuse() -> DeliveryResult:
        raise DestinationRefusedError("not here")

    with pytest.raises(DestinationRefusedError, match="not here"):
        limits.run(Place("quick"), refuse)


def test_what_hangs_is_given_up_and_nothing_more_begun_until_it_has_ended(hang: Hang) -> None:
    limits, place = TimeLimits(), Place("hanging", timeout_seconds=0.05)
    with pytest.raises(DestinationUnavailableError, match=r"did not finish within 0\.05 seconds") as given_up:
        limits.run(place, hang)
    assert given_up.value.retry_after is None  # an attempt like any other that failed
    for _ in range(20):
        with pytest.raises(DestinationUnavailableError, match="has not finished an operation"):
            limits.run(place, hang)
    (helper,) = helpers("hanging")
    assert hang.began.acquire(blocking=False)
    assert not hang.began.acquire(blocking=False)
    assert limits.run(Place("other"), lambda: DONE) is DONE

    hang.let_go.set()
    helper.join()
    assert limits.run(place, lambda: DONE) is DONE


def test_a_destination_has_few_places_and_a_slow_one_lets_nobody_wait(hang: Hang) -> None:
    now = 0.0
    limits, place = TimeLimits(lambda: now), Place("slow")
    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        running: list[Future[DeliveryResult]] = [pool.submit(limits.run, place, hang) for _ in range(MAX_CONCURRENCY)]
        for _ in running:
            hang.began.acquire()
        now = 2.0
        with pytest.raises(DestinationUnavailableError, match="busy") as refused:
            limits.run(place, hang)
        assert refused.value.retry_after  # costs no attempt
        assert limits.run(Place("other"), lambda: DONE) is DONE
        hang.let_go.set()
        assert [future.result() for future in running] == [DONE] * MAX_CONCURRENCY


def test_whoever_finds_the_places_taken_gets_the_next_one_that_is_free(hang: Hang) -> None:
    limits, place = TimeLimits(lambda: 0.0), Place("popular")
    with ThreadPoolExecutor(MAX_CONCURRENCY + 1) as pool:
        running = [pool.submit(limits.run, place, hang) for _ in range(MAX_CONCURRENCY)]
        for _ in running:
            hang.began.acquire()
        waiting = pool.submit(limits.run, place, lambda: DONE)
        assert len(helpers("popular")) == MAX_CONCURRENCY
        hang.let_go.set()
        assert [future.result() for future in (*running, waiting)] == [DONE] * (MAX_CONCURRENCY + 1)
