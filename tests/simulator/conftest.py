"""A simulator for each test, and a receiver of its webhooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.event_receiver import EventReceiver
from tests.support.simulator_process import Simulator


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    receiver = EventReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """Options by `@pytest.mark.parametrize("simulator", [{...}], indirect=True)`."""
    options = {"domain": ["example.com", "other.example"], "issue_delay": 0.05, "allow_http_webhooks": True}
    simulator = Simulator(**(options | getattr(request, "param", {}))).start()
    yield simulator
    simulator.kill()  # a graceful stop takes a second; how it stops has tests of its own
