"""The renewal rule: when a certificate should be renewed, when that is overdue or critical, and for how long it counts.

Lifetimes are shrinking (90, 64, 45 and 6 days), so every instant is a share of the certificate's own lifetime.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement

from app.db.models import Certificate

# DNSimple renews 30 days before expiry (contract, section 2.4). It does not document what it does when that is more
# than half of the lifetime; half is when Let's Encrypt recommends renewing the shortest ones.
RENEWAL_HORIZON = timedelta(days=30)  # no renewal is expected earlier before expiry
_LATEST_SHARE = 1 / 2
# Shares of the time from the expected renewal to expiry. DNSimple retries daily, so its first failure is not an alert.
_OVERDUE_AFTER = 1 / 4
_CRITICAL_AFTER = 2 / 3
# A lineage whose newest certificate expired longer ago is abandoned: no view, alert or reconciliation counts it.
ABANDONED_AFTER = timedelta(days=7)
# How often reconciliation asks DNSimple for the successor of a certificate whose renewal is expected.
SUCCESSOR_CHECK_INTERVAL = timedelta(hours=6)
# A failed renewal of ours is retried daily for 90 days of lifetime, as DNSimple does; within an hour if it is urgent.
_RETRY_SHARE = 1 / 90
_URGENT_RETRY = timedelta(hours=1)
# An issuance that stays pending fails after a week. A renewal fails sooner, while there is time for another: after 12
# hours for a certificate of 6 days.
_ISSUANCE_TIMEOUT = timedelta(days=7)
_RENEWAL_TIMEOUT_SHARE = 1 / 12
_SHORTEST_RENEWAL_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """When a successor is expected, when it is overdue, and when that is critical. UTC."""

    expected_at: datetime
    overdue_at: datetime
    critical_at: datetime


def renewal_times(not_before: datetime, not_after: datetime) -> RenewalTimes:
    """For a 90-day certificate: 30, 22.5 and 10 days before expiry; for a 6-day one: 3, 2.25 and 1."""
    remaining = min(RENEWAL_HORIZON, (not_after - not_before) * _LATEST_SHARE)
    expected_at = not_after - remaining
    return RenewalTimes(
        expected_at, expected_at + remaining * _OVERDUE_AFTER, expected_at + remaining * _CRITICAL_AFTER
    )


def renewal_retry_interval(not_before: datetime, not_after: datetime, *, urgent: bool) -> timedelta:
    """How long to wait after a failed renewal of ours before ordering another."""
    interval = (not_after - not_before) * _RETRY_SHARE
    return min(_URGENT_RETRY, interval) if urgent else interval


def issuance_timeout(replaced: Certificate | None) -> timedelta:
    """How long an issuance may stay pending before its order fails; `replaced` is what a renewal replaces."""
    if replaced is None or replaced.not_before is None or replaced.not_after is None:
        return _ISSUANCE_TIMEOUT
    share = (replaced.not_after - replaced.not_before) * _RENEWAL_TIMEOUT_SHARE
    return min(_ISSUANCE_TIMEOUT, max(_SHORTEST_RENEWAL_TIMEOUT, share))


def expires_within(now: datetime, ahead: timedelta = RENEWAL_HORIZON) -> ColumnElement[bool]:
    """Whether a certificate expires at most `ahead` from now, or has expired and is not abandoned yet."""
    return Certificate.not_after.between(now - ABANDONED_AFTER, now + ahead)
