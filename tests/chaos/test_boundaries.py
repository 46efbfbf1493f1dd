"""`kill -9` at every commit boundary: everything acknowledged still completes, nothing is doubled."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from app.events.ingestion import EventIngestion, IncomingEvent, Outcome
from app.orders import issuance
from tests.chaos.boundaries import Life, When, chaos_settings
from tests.support.simulator_process import Simulator

pytestmark = [pytest.mark.both_databases, pytest.mark.timeout(600)]  # some hundred lives, each in a process of its own


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_life_survives_a_kill_at_every_commit(
    database_url: str, simulator: Simulator, tmp_path: Path, when: When
) -> None:
    settings = chaos_settings(database_url, simulator, tmp_path)
    found, killed = {}, 0
    for commit in count(1):
        life = Life(settings, simulator.url, f"{when}{commit}.example")
        was_killed = life.lives_until(commit, when)
        killed += was_killed
        violations = life.goes_on()
        if violations:
            found[commit] = violations
        if not was_killed:
            break
    assert found == {}
    assert killed >= 25


def acknowledge_first() -> None:
    """The bug that everybody builds once: the event is answered, and committed a moment later."""
    record = EventIngestion.record

    def later(ingestion: EventIngestion, event: IncomingEvent) -> Outcome:
        threading.Timer(0.02, record, (ingestion, event)).start()
        return "queued"

    patch.object(EventIngestion, "record", later).start()


def test_acknowledging_before_the_commit_is_found(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    settings = chaos_settings(database_url, simulator, tmp_path)
    found: set[str] = set()
    for commit in range(12, 20):
        life = Life(settings, simulator.url, f"planted{commit}.example")
        life.lives_until(commit, "before", acknowledge_first)
        found.update(life.goes_on())
    assert "each event on record once" in found


def test_buying_again_without_looking_is_found(
    database_url: str, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuance, "find_purchased", lambda *_: None)
    settings = chaos_settings(database_url, simulator, tmp_path)
    found: set[str] = set()
    for commit in range(1, 12):
        life = Life(settings, simulator.url, f"blind{commit}.example")
        life.lives_until(commit, "before")
        found.update(life.goes_on())
    assert "bought once" in found
