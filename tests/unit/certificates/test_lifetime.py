"""When a renewal is expected, overdue and critical, for all lifetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.certificates.lifetime import renewal_times

START = datetime(2027, 2, 10, tzinfo=UTC)


def _days_left(lifetime: float) -> list[float]:
    end = START + timedelta(days=lifetime)
    times = renewal_times(START, end)
    return [(end - at) / timedelta(days=1) for at in (times.expected_at, times.overdue_at, times.critical_at)]


@pytest.mark.parametrize("lifetime", [90, 64])
def test_a_long_certificate_is_expected_to_be_renewed_thirty_days_before_it_expires(lifetime: float) -> None:
    assert _days_left(lifetime) == pytest.approx([30, 22.5, 10])


def test_a_certificate_of_45_days_is_expected_to_be_renewed_at_half_of_its_lifetime() -> None:
    assert _days_left(45) == pytest.approx([22.5, 16.875, 7.5])


def test_a_certificate_of_six_days_is_critical_a_day_before_it_expires() -> None:
    assert _days_left(6) == pytest.approx([3, 2.25, 1])


@pytest.mark.parametrize("lifetime", [90, 64, 45, 160 / 24, 6, 1])
def test_a_renewal_becomes_overdue_while_a_quarter_of_the_lifetime_is_left(lifetime: float) -> None:
    expected, overdue, critical = _days_left(lifetime)
    assert lifetime > expected > overdue > critical > 0
    assert overdue / lifetime >= 0.25
