"""Real processes for end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A simulator that delivers every event three times, with the usual faults."""
    with Simulator(
        token=TOKEN, any_domain=True, issue_delay=0.3, allow_http_webhooks=True, deliver_times=3
    ) as simulator:
        simulator.usual_faults()
        yield simulator


@pytest.fixture
def retrying_simulator() -> Iterator[Simulator]:
    """One that delivers every event twice, and soon again what was not acknowledged."""
    options = {"webhook_retry_base": 0.2, "suppress_after": 1000, "deliver_times": 2, "allow_http_webhooks": True}
    with Simulator(token=TOKEN, any_domain=True, issue_delay=0.2, **options) as simulator:
        simulator.usual_faults()
        yield simulator


@pytest.fixture
def stack(database_url: str, tmp_path: Path, simulator: Simulator) -> Iterator[Stack]:
    """Web, worker and simulator on SQLite and on PostgreSQL."""
    stack = Stack(database_url, tmp_path, simulator, job_lease_seconds=2)
    try:
        yield stack.start()
    finally:
        stack.stop()
