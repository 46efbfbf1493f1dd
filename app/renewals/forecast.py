"""How many renewals are to be expected on each of the coming days. Read at most once in a while by each process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import func, select

from app.auth.scopes import only
from app.certificates.lineages import newest_of_lineage
from app.certificates.queries import GIVEN_UP
from app.db.clock import epoch, read_now
from app.db.models import Certificate
from app.renewals.renewal import renewal_times
from app.services import Services

WEEKS = 5
_SECONDS = 120.0
_MOST_KEPT = 50
_DAY = 86_400
_LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class RenewalForecast:
    """`days`: renewals by day (UTC). `late`: certificates whose successor is overdue."""

    today: date
    days: dict[date, int]
    late: int


class ForecastCache:
    """One for each process. While somebody reads anew, the others get what was known."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._known: dict[tuple[str, ...] | None, tuple[float, RenewalForecast]] = {}
        self._lock = threading.Lock()

    def get(self, domains: tuple[str, ...] | None = None) -> RenewalForecast:
        """The outlook for a reader who is limited to these domains."""
        now = self._clock()
        with self._lock:
            read_at, known = self._known.get(domains, (0.0, None))
            if known is not None:
                if now - read_at < _SECONDS:
                    return known
                self._known[domains] = (now, known)  # it is ours to read; nobody else begins meanwhile
        fresh = compute_forecast(self._services, domains)
        with self._lock:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[domains] = (now, fresh)
        return fresh


def compute_forecast(services: Services, domains: Sequence[str] | None = None) -> RenewalForecast:
    """Newest certificates of their lineages, by the days on which they began and end: few groups, one pass."""
    began, ends = epoch(Certificate.not_before) // _DAY, epoch(Certificate.not_after) // _DAY
    with services.database.read() as session:
        now = read_now(session)
        horizon = now + timedelta(weeks=WEEKS) + _LONGEST_WAIT
        query = (
            select(began, ends, func.count())
            .where(Certificate.not_after.between(now - GIVEN_UP, horizon), newest_of_lineage())
            .where(*only(domains, Certificate.domain))
            .group_by(began, ends)
        )
        groups = session.execute(query).all()
    days: Counter[date] = Counter()
    late = 0
    for first, last, count in groups:
        times = renewal_times(_day(int(first)), _day(int(last)))
        if times.overdue_at < now - timedelta(days=1):  # days are known here, not hours
            late += count
        days[times.expected_at.date()] += count
    return RenewalForecast(now.date(), dict(days), late)


def _day(number: int) -> datetime:
    return datetime.fromtimestamp(number * _DAY, UTC)
