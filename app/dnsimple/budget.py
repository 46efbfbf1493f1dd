"""The account's API quota: one budget for all processes, kept in the database (contract, section 4).

Every call is paid for before it is sent. What DNSimple's headers say corrects the budget, always to the lower side
while other calls are on their way, so that all processes together never exceed it. A 429 stops everyone until the
announced reset; a 401 stops everyone who uses that token, for a wrong token burns a small quota of its own.
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
from app.dnsimple.errors import AuthenticationError, RateLimitedError
from app.dnsimple.purposes import Answer, Purpose
from app.errors import CertcourierError, RetryableError

log = structlog.get_logger("certcourier.quota")

# DNSimple's window is an hour; how long it really is, the first answer of a window tells.
_WINDOW_SECONDS = 3600
_LONGEST_WINDOW_SECONDS = 2 * _WINDOW_SECONDS
# Until the first answer tells; small enough that a burst at the very beginning exceeds no real limit.
_ASSUMED_LIMIT = 30
# DNSimple's times are whole seconds; a window is taken for over only when it is over on both sides.
_MARGIN = timedelta(seconds=1.5)
# Two ends of a window further apart than this are two windows.
_SAME_WINDOW = timedelta(seconds=5)
_REJECTED_PAUSE = timedelta(minutes=15)
_UNEXPLAINED_PAUSE_SECONDS = 60.0
# Calls that anybody can cause who can post events.
_ON_A_WORD = {Purpose.UNKNOWN, Purpose.REPEATED}
# What waited is resumed over this share of a window, not all at once: over a minute of an hour.
_SPREAD = 1 / 60


class QuotaExhaustedError(RetryableError):
    """Not sent: the budget is spent, or everyone is stopped. `retry_after` is in seconds."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Per cent of the limit: kept free for interactive orders; what calls for unknown things may waste.

    The reserve shrinks with the time that is left of the window, so that none of it is lost when nobody orders.
    """

    reserve: float = 10.0
    unknown: float = 5.0


def digest_token(token: str) -> str:
    """What stands for a token in the quota's row."""
    return hashlib.sha256(b"quota" + token.strip().encode()).hexdigest()[:16]


class RateBudget:
    """Asked before each call, told after it."""

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
        self._rng = rng or random.Random()  # noqa: S311, a spread is no secret

    def admit(self, purpose: Purpose, calls: int = 1) -> None:
        """Pay for so many calls, or raise `QuotaExhaustedError`."""
        with self._database.write() as session:
            row, now = self._row(session)
            self._begin_window(row, now)
            refusal = self._refusal(row, now, purpose, calls)
            if refusal is None:
                row.remaining -= calls
                row.in_flight += calls
                if purpose in _ON_A_WORD:
                    row.unknown_left -= calls
        if refusal is not None:
            raise refusal

    def give_back(self, purpose: Purpose, calls: int) -> None:
        """Calls that were paid for and not sent. Never raises."""
        with _kept_quiet(), self._database.write() as session:
            row, _ = self._row(session)
            row.remaining += min(calls, row.in_flight)  # none of them, if its window has ended meanwhile
            row.in_flight = max(0, row.in_flight - calls)
            if purpose in _ON_A_WORD:
                row.unknown_left += calls

    def settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Learn from a call that has ended, with or without an answer. Never raises: the answer must get through."""
        with _kept_quiet():
            self._settle(purpose, answer, error)

    def _settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        with self._database.write() as session:
            row, now = self._row(session)
            row.in_flight = max(0, row.in_flight - 1)
            if purpose is Purpose.UNKNOWN and error is None:
                row.unknown_left += 1  # it is known: nothing was wasted
            self._correct(row, now, answer)
            if isinstance(error, RateLimitedError) and error.account_wide:
                pause = error.retry_after if error.retry_after is not None else _UNEXPLAINED_PAUSE_SECONDS
                self._stop(row, now + timedelta(seconds=pause), "quota exceeded", None)
            elif isinstance(error, AuthenticationError):
                # A 429's stop is everybody's, and must not be forgotten for one that is a token's.
                if not self._is_stopped_for_all(row, now):
                    self._stop(row, now + _REJECTED_PAUSE, "token rejected", self._token_digest)
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
            row.in_flight = 0  # what has not come back by now was lost with its process
            row.unknown_left = self._unknown_share(row.call_limit)
            row.reset_at = now + timedelta(seconds=row.window_seconds) + _MARGIN

    def _refusal(self, row: Quota, now: datetime, purpose: Purpose, calls: int) -> QuotaExhaustedError | None:
        stopped = row.blocked_until is not None and row.blocked_until > now
        if stopped and row.blocked_until is not None and row.blocked_token in {None, self._token_digest}:
            seconds = (row.blocked_until - now).total_seconds()
            return self._wait(row, seconds, f"all calls to DNSimple are stopped: {row.blocked_reason}")
        until_reset = max(0.0, (row.reset_at - now).total_seconds())
        if row.remaining < calls:
            return self._wait(row, until_reset, "this hour's calls to DNSimple are spent")
        reserve = row.call_limit * self._shares.reserve / 100
        spare = row.remaining - calls + 1
        if purpose is not Purpose.INTERACTIVE and spare <= reserve * until_reset / row.window_seconds:
            released = until_reset - row.window_seconds * spare / reserve
            pause = self._rng.uniform(max(0.0, released), until_reset)
            return self._wait(row, pause, "the rest of this hour's calls to DNSimple is kept for orders")
        if purpose in _ON_A_WORD and row.unknown_left <= 0:
            return self._wait(row, until_reset, "this hour's calls for unknown certificates are spent")
        return None

    def _wait(self, row: Quota, seconds: float, reason: str) -> QuotaExhaustedError:
        return QuotaExhaustedError(reason, retry_after=seconds + self._rng.uniform(0, _SPREAD * row.window_seconds))

    def _correct(self, row: Quota, now: datetime, answer: Answer) -> None:
        """Take over what the headers say, where they make sense and belong to a window that has not ended."""
        seen = answer.rate_limit
        if seen is None or not 0 <= seen.remaining <= seen.limit or seen.limit == 0:
            return
        if not 0 < seen.seconds_left <= _LONGEST_WINDOW_SECONDS:
            return
        reset_at = now + timedelta(seconds=seen.seconds_left) + _MARGIN
        # Calls of ours that are on their way may not be counted in what this answer says.
        certainly_left = max(0, seen.remaining - row.in_flight)
        if reset_at > row.reset_at + _SAME_WINDOW or seen.limit != row.call_limit:
            row.remaining = certainly_left
        else:
            row.remaining = min(row.remaining, certainly_left)
        if seen.limit != row.call_limit:
            wasted = self._unknown_share(row.call_limit) - row.unknown_left
            row.unknown_left = max(0, self._unknown_share(seen.limit) - wasted)
            row.call_limit, row.window_seconds = seen.limit, 1
        row.window_seconds = max(row.window_seconds, math.ceil(seen.seconds_left))
        row.reset_at = reset_at

    @staticmethod
    def _is_stopped_for_all(row: Quota, now: datetime) -> bool:
        return row.blocked_token is None and row.blocked_until is not None and row.blocked_until > now

    def _stop(self, row: Quota, until: datetime, reason: str, token: str | None) -> None:
        row.blocked_until, row.blocked_reason, row.blocked_token = until, reason, token
        log.error("all calls to DNSimple are stopped", reason=reason, until=until.isoformat(timespec="seconds"))

    def _unknown_share(self, limit: int) -> int:
        return max(1, round(limit * self._shares.unknown / 100))


@contextmanager
def _kept_quiet() -> Iterator[None]:
    """What cannot be written is lost to the budget, on the safe side: the answer itself must get through."""
    try:
        yield
    except SQLAlchemyError as problem:
        log.error("the quota could not be settled", reason=type(problem).__name__)  # noqa: TRY400
