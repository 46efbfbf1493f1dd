"""`kill -9` at every commit boundary: everything acknowledged still completes, nothing is done twice."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from app.events.ingestion import EventIngestion, IncomingEvent, Outcome
from app.orders import issuance
from tests.chaos.boundaries import Lifecycle, When, chaos_settings
from tests.support.simulator_process import Simulator

pytestmark = [pytest.mark.both_databases, pytest.mark.timeout(600)]  # some hundred lives, each in a process of its own


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lifecycle_survives_a_kill_at_every_commit(
    database_url: str, simulator: Simulator, tmp_path: Path, when: When
) -> None:
    settings = chaos_settings(database_url, simulator, tmp_path)
    found, killed = {}, 0
    for commit in count(1):
        lifecycle = Lifecycle(settings, simulator.url, f"{when}{commit}.example")
        was_killed = lifecycle.run_until(commit, when)
        killed += was_killed
        violations = lifecycle.resume()
        if violations:
            found[commit] = violations
        if not was_killed:
            break
    assert found == {}
    assert killed >= 25


def acknowledge_first() -> None:
    """A common bug: the event is acknowledged, and committed a moment later."""
    record = EventIngestion.record

    def later(ingestion: EventIngestion, event: IncomingEvent) -> Outcome:
        threading.Timer(0.02, record, (ingestion, event)).start()
        return "queued"

    patch.object(EventIngestion, "record", later).start()


def test_acknowledging_before_the_commit_is_found(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    settings = chaos_settings(database_url, simulator, tmp_path)
    found: set[str] = set()
    for commit in range(12, 20):
        lifecycle = Lifecycle(settings, simulator.url, f"planted{commit}.example")
        lifecycle.run_until(commit, "before", acknowledge_first)
        found.update(lifecycle.resume())
    assert "each event on record once" in found


def test_a_blind_repetition_of_a_purchase_is_found(
    database_url: str, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuance, "find_purchased", lambda *_: None)
    settings = chaos_settings(database_url, simulator, tmp_path)
    found: set[str] = set()
    for commit in range(1, 12):
        lifecycle = Lifecycle(settings, simulator.url, f"blind{commit}.example")
        lifecycle.run_until(commit, "before")
        found.update(lifecycle.resume())
    assert "purchased once" in found
