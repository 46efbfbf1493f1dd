"""The short form of `make chaos`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.__main__ import table
from tests.chaos.campaign import Plan, run

pytestmark = pytest.mark.timeout(600)
PLANTED = Path(__file__).with_name("acknowledging_first.py")


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_a_short_campaign_violates_no_guarantee(database: str) -> None:
    report = run(Plan(database, kills=15, seed=42))
    assert not report.violations, table([report])
    assert report.done["orders acknowledged"] > 0
    assert report.done["versions published"] > 0
    assert report.done["events acknowledged"] > 0


def test_a_campaign_finds_a_planted_bug() -> None:
    """Acknowledging before the commit loses what was acknowledged last when the process dies."""
    report = run(replace(Plan("sqlite", kills=15, seed=42), plant=PLANTED))
    assert "an acknowledged event is missing or stored twice" in report.violations, table([report])
