"""The account's API quota: one budget for all processes, kept in the database (contract, section 4).

Every call is acquired before it is sent. DNSimple's headers correct the budget, only downwards while other calls are
in flight, so that all processes together never exceed it. A 429 blocks all calls until the announced reset. A 401
blocks the calls with that token, since each rejected token consumes a small quota of its own.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db.clock import read_now
from app.db.database import Database
from app.db.models import Quota
from app.db.upsert import insert_once
from app.dnsimple.budgeted_calls import Answer, Purpose
from app.dnsimple.errors import AuthenticationError, RateLimitedError
from app.errors import CertcourierError, RetryableError

log = structlog.get_logger("certcourier.quota")

# DNSimple's window is an hour; the first response within a window shows its actual length.
_WINDOW_SECONDS = 3600
_LONGEST_WINDOW_SECONDS = 2 * _WINDOW_SECONDS
# Until the first response; small enough that an initial burst exceeds no real limit.
_ASSUMED_LIMIT = 30
# DNSimple's times are whole seconds; a window counts as ended only when it has ended on both sides.
_MARGIN = timedelta(seconds=1.5)
# Resets further apart than this belong to different windows.
_SAME_WINDOW = timedelta(seconds=5)
_REJECTED_PAUSE = timedelta(minutes=15)
_UNEXPLAINED_PAUSE_SECONDS = 60.0
# Calls that anyone who can post events can cause.
_CAUSED_BY_EVENTS = {Purpose.UNVERIFIED_EVENT, Purpose.REPEAT_CHECK}
# Waiting work resumes spread over this share of a window: over a minute of an hour.
_SPREAD = 1 / 60


class QuotaExhaustedError(RetryableError):
    """Not sent: the budget is exhausted or calls are blocked. `retry_after` is in seconds."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Percentages of the limit: reserved for interactive orders, and available to unverified events.

    The reserve shrinks with the time left in the window, so that none of it is lost if there are no orders.
    """

    reserve: float = 10.0
    unknown: float = 5.0


def digest_token(token: str) -> str:
    """The digest that represents a token in the quota's row."""
    return hashlib.sha256(b"quota" + token.strip().encode()).hexdigest()[:16]


class RateBudget:
    """Consulted before each call and updated after it."""

    def __init__(
        self,
        database: Database,
        *,
        account_id: int,
        token: str,
        shares: Shares | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._database = database
        self._account_id = account_id
        self._token_digest = digest_token(token)
        self._shares = shares or Shares()
        self._rng = rng or random.Random()  # noqa: S311, jitter is no secret

    def acquire(self, purpose: Purpose, calls: int = 1) -> None:
        """Acquire this number of calls, all or none; raises `QuotaExhaustedError` otherwise."""
        with self._database.write() as session:
            row, now = self._row(session)
            self._begin_window(row, now)
            refusal = self._refusal(row, now, purpose, calls)
            if refusal is None:
                row.remaining -= calls
                row.in_flight += calls
                if purpose in _CAUSED_BY_EVENTS:
                    row.unknown_left -= calls
        if refusal is not None:
            raise refusal

    def release(self, purpose: Purpose, calls: int) -> None:
        """Give back acquired calls that are not sent. Never raises."""
        with _logged_failures(), self._database.write() as session:
            row, _ = self._row(session)
            row.remaining += min(calls, row.in_flight)  # none if their window has ended meanwhile
            row.in_flight = max(0, row.in_flight - calls)
            if purpose in _CAUSED_BY_EVENTS:
                row.unknown_left += calls

    def update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Take the outcome of a call into account. Never raises: the caller must receive the response."""
        with _logged_failures():
            self._update(purpose, answer, error)

    def _update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        with self._database.write() as session:
            row, now = self._row(session)
            row.in_flight = max(0, row.in_flight - 1)
            if purpose is Purpose.UNVERIFIED_EVENT and error is None:
                row.unknown_left += 1  # the event was genuine, so the call costs nothing of this share
            self._correct(row, now, answer)
            if isinstance(error, RateLimitedError) and error.account_wide:
                pause = error.retry_after if error.retry_after is not None else _UNEXPLAINED_PAUSE_SECONDS
                self._block(row, now + timedelta(seconds=pause), "quota exceeded", None)
            elif isinstance(error, AuthenticationError):
                # A block of all calls (429) takes precedence over that of one token.
                if not self._blocks_all_calls(row, now):
                    self._block(row, now + _REJECTED_PAUSE, "token rejected", self._token_digest)
            elif answer.status is not None and answer.status < 500 and row.blocked_token == self._token_digest:
                row.blocked_until = row.blocked_reason = row.blocked_token = None

    def _row(self, session: Session) -> tuple[Quota, datetime]:
        row = session.get(Quota, self._account_id, with_for_update=True)
        now = read_now(session)
        if row is None:
            insert_once(
                session,
                Quota,
                account_id=self._account_id,
                call_limit=_ASSUMED_LIMIT,
                remaining=_ASSUMED_LIMIT,
                in_flight=0,
                unknown_left=self._unknown_share(_ASSUMED_LIMIT),
                window_seconds=_WINDOW_SECONDS,
                reset_at=now + timedelta(seconds=_WINDOW_SECONDS),
            )
            row = session.get_one(Quota, self._account_id, with_for_update=True)
        return row, now

    def _begin_window(self, row: Quota, now: datetime) -> None:
        if now >= row.reset_at:
            row.remaining = row.call_limit
            row.in_flight = 0  # calls still in flight were lost with their process
            row.unknown_left = self._unknown_share(row.call_limit)
            row.reset_at = now + timedelta(seconds=row.window_seconds) + _MARGIN

    def _refusal(self, row: Quota, now: datetime, purpose: Purpose, calls: int) -> QuotaExhaustedError | None:
        if (
            row.blocked_until is not None
            and row.blocked_until > now
            and row.blocked_token in {None, self._token_digest}
        ):
            seconds = (row.blocked_until - now).total_seconds()
            return self._wait(row, seconds, f"calls to DNSimple are paused: {row.blocked_reason}")
        until_reset = max(0.0, (row.reset_at - now).total_seconds())
        if row.remaining < calls:
            return self._wait(row, until_reset, "this hour's calls to DNSimple are used up")
        reserve = row.call_limit * self._shares.reserve / 100
        spare = row.remaining - calls + 1
        if purpose is not Purpose.INTERACTIVE and spare <= reserve * until_reset / row.window_seconds:
            released = until_reset - row.window_seconds * spare / reserve
            pause = self._rng.uniform(max(0.0, released), until_reset)
            return self._wait(row, pause, "the rest of this hour's calls to DNSimple is reserved for orders")
        if purpose in _CAUSED_BY_EVENTS and row.unknown_left <= 0:
            return self._wait(row, until_reset, "this hour's calls for unknown certificates are used up")
        return None

    def _wait(self, row: Quota, seconds: float, reason: str) -> QuotaExhaustedError:
        return QuotaExhaustedError(reason, retry_after=seconds + self._rng.uniform(0, _SPREAD * row.window_seconds))

    def _correct(self, row: Quota, now: datetime, answer: Answer) -> None:
        """Apply the quota of the response's headers if they are plausible and their window has not ended."""
        reported = answer.rate_limit
        if reported is None or not 0 <= reported.remaining <= reported.limit or reported.limit == 0:
            return
        if not 0 < reported.seconds_left <= _LONGEST_WINDOW_SECONDS:
            return
        reset_at = now + timedelta(seconds=reported.seconds_left) + _MARGIN
        # The reported number may not include our calls in flight.
        certainly_left = max(0, reported.remaining - row.in_flight)
        if reset_at > row.reset_at + _SAME_WINDOW or reported.limit != row.call_limit:
            row.remaining = certainly_left
        else:
            row.remaining = min(row.remaining, certainly_left)
        if reported.limit != row.call_limit:
            wasted = self._unknown_share(row.call_limit) - row.unknown_left
            row.unknown_left = max(0, self._unknown_share(reported.limit) - wasted)
            row.call_limit, row.window_seconds = reported.limit, 1
        row.window_seconds = max(row.window_seconds, math.ceil(reported.seconds_left))
        row.reset_at = reset_at

    @staticmethod
    def _blocks_all_calls(row: Quota, now: datetime) -> bool:
        return row.blocked_token is None and row.blocked_until is not None and row.blocked_until > now

    def _block(self, row: Quota, until: datetime, reason: str, token: str | None) -> None:
        row.blocked_until, row.blocked_reason, row.blocked_token = until, reason, token
        log.error("calls to DNSimple paused", reason=reason, until=until.isoformat(timespec="seconds"))

    def _unknown_share(self, limit: int) -> int:
        return max(1, round(limit * self._shares.unknown / 100))


@contextmanager
def _logged_failures() -> Iterator[None]:
    """Log failures of the database: the caller must receive the response, and the budget errs on the safe side."""
    try:
        yield
    except SQLAlchemyError as error:
        log.error("quota not updated", reason=type(error).__name__)  # noqa: TRY400
