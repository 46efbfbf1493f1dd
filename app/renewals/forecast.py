"""The renewal forecast: how many renewals to expect on each of the coming days, cached in each process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import func, select

from app.auth.scopes import only
from app.certificates.lifetime import RENEWAL_HORIZON, expires_within, renewal_times
from app.certificates.lineages import newest_of_lineage
from app.db.clock import epoch, read_now
from app.db.database import Database
from app.db.models import Certificate
from app.services import Services

WEEKS = 5
_CACHE_SECONDS = 120.0
_MOST_KEPT = 50
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class RenewalForecast:
    """Expected renewals by day (UTC)."""

    today: date
    days: dict[date, int]


class ForecastCache:
    """One per process. While one thread computes a new forecast, the others get the previous one."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._known: dict[tuple[str, ...] | None, tuple[float, RenewalForecast]] = {}
        self._lock = threading.Lock()

    def get(self, domains: tuple[str, ...] | None = None) -> RenewalForecast:
        """The forecast for a reader that is restricted to these domains."""
        now = self._clock()
        with self._lock:
            read_at, known = self._known.get(domains, (0.0, None))
            if known is not None:
                if now - read_at < _CACHE_SECONDS:
                    return known
                self._known[domains] = (now, known)  # this thread computes; no other starts meanwhile
        fresh = compute_forecast(self._services.database, domains)
        with self._lock:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[domains] = (now, fresh)
        return fresh


def compute_forecast(database: Database, domains: Sequence[str] | None = None) -> RenewalForecast:
    """Group the newest certificates of their lineages by the days of notBefore and notAfter: few groups, one pass."""
    first_days, last_days = epoch(Certificate.not_before) // _DAY, epoch(Certificate.not_after) // _DAY
    with database.read() as session:
        now = read_now(session)
        query = (
            select(first_days, last_days, func.count())
            .where(expires_within(now, timedelta(weeks=WEEKS) + RENEWAL_HORIZON), newest_of_lineage())
            .where(*only(domains, Certificate.domain))
            .group_by(first_days, last_days)
        )
        groups = session.execute(query).all()
    days: Counter[date] = Counter()
    for first, last, count in groups:
        times = renewal_times(_day(int(first)), _day(int(last)))
        days[times.expected_at.date()] += count
    return RenewalForecast(now.date(), dict(days))


def _day(days_since_epoch: int) -> datetime:
    return datetime.fromtimestamp(days_since_epoch * _DAY, UTC)
