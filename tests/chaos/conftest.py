"""A simulator that issues at once and never counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    options = {"any_domain": True, "issue_delay": 0.0, "rate_limit": 1_000_000}
    with Simulator(token=TOKEN, **options) as simulator:
        yield simulator
