"""What the texts of alerts are made of."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.alerts.alert import duration
from app.alerts.rules import RULES


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(30, "30 seconds"), (60, "60 seconds"), (90, "90 seconds"), (600, "10 minutes"), (604800, "7 days")],
)
def test_a_duration_is_shown_in_its_largest_unit(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_every_threshold_is_named_in_the_condition_of_its_rule() -> None:
    for rule in RULES.values():
        assert (rule.threshold is None) == ("{threshold}" not in rule.when)
        assert bool(rule.settles) == ("{settles}" in rule.when)
        assert "{" not in rule.condition
