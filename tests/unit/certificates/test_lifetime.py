"""The renewal rule, for all lifetimes: when a renewal is expected, overdue, critical, retried and timed out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.certificates.lifetime import RENEWAL_HORIZON, issuance_timeout, renewal_retry_interval, renewal_times
from app.db.models import Certificate

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


@pytest.mark.parametrize("lifetime", [90, 64, 45, 6])
def test_no_renewal_is_expected_beyond_the_horizon(lifetime: float) -> None:
    assert max(_days_left(lifetime)) <= RENEWAL_HORIZON / timedelta(days=1)


@pytest.mark.parametrize(
    ("lifetime", "urgent", "hours"), [(90, False, 24), (90, True, 1), (6, False, 1.6), (6, True, 1), (1, True, 0.2667)]
)
def test_a_failed_renewal_is_retried_after_a_share_of_the_lifetime_or_within_an_hour_if_urgent(
    lifetime: float, urgent: bool, hours: float
) -> None:
    interval = renewal_retry_interval(START, START + timedelta(days=lifetime), urgent=urgent)
    assert interval / timedelta(hours=1) == pytest.approx(hours, rel=1e-3)


@pytest.mark.parametrize(("lifetime", "hours"), [(90, 168), (6, 12), (1, 2), (1 / 24, 2)])
def test_the_issuance_of_a_renewal_times_out_while_there_is_time_for_another(lifetime: float, hours: float) -> None:
    replaced = Certificate(not_before=START, not_after=START + timedelta(days=lifetime))
    assert issuance_timeout(replaced) / timedelta(hours=1) == pytest.approx(hours)


@pytest.mark.parametrize("replaced", [None, Certificate()])
def test_a_first_issuance_times_out_after_a_week(replaced: Certificate | None) -> None:
    assert issuance_timeout(replaced) == timedelta(days=7)
