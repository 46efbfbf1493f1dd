"""When a certificate has to be renewed, and renewing it where DNSimple does not.

Lifetimes are shrinking (90, 64, 45 and 6 days), so every time is a share of the certificate's own lifetime.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# DNSimple renews 30 days before expiry (contract, section 2.4). What it does when that is more than half of the
# lifetime nobody knows yet; half of it is when Let's Encrypt asks for the shortest ones to be renewed.
_RENEWED_BEFORE = timedelta(days=30)
_LONGEST_WAIT = 1 / 2
# Shares of the time between the renewal's day and expiry. DNSimple tries again daily, so a first failure is no news.
_OVERDUE_AFTER = 1 / 4
_CRITICAL_AFTER = 2 / 3


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """When a successor can be expected, when its absence is a problem, and when it is one for tonight. UTC."""

    expected_at: datetime
    overdue_at: datetime
    critical_at: datetime


def renewal_times(not_before: datetime, not_after: datetime) -> RenewalTimes:
    """The only rule for it. A 90-day certificate: 30, 22.5 and 10 days before expiry; a 6-day one: 3, 2.25 and 1."""
    room = min(_RENEWED_BEFORE, (not_after - not_before) * _LONGEST_WAIT)
    expected_at = not_after - room
    return RenewalTimes(expected_at, expected_at + room * _OVERDUE_AFTER, expected_at + room * _CRITICAL_AFTER)
