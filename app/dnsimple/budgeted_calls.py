"""Calls and the quota: which part of it each call uses, and who observes its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from app.dnsimple.errors import AuthenticationError
from app.errors import CertcourierError


class Purpose(StrEnum):
    """Which part of the quota a call uses."""

    INTERACTIVE = "interactive"  # a client is waiting for an order
    BACKGROUND = "background"
    # A certificate or domain known only from an event; costs nothing if DNSimple confirms that it exists.
    UNVERIFIED_EVENT = "unverified_event"
    # A known certificate, checked again because of an event; uses the share of unverified events and is never free.
    REPEAT_CHECK = "repeat_check"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The account's quota according to DNSimple's headers; `seconds_left` of the window by DNSimple's clock."""

    limit: int
    remaining: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What an observer learns about a call: neither its body nor the token. `path` is a template without values."""

    method: str
    path: str
    status: int | None
    seconds: float
    rate_limit: RateLimit | None
    request_id: str | None
    sent_at: float | None = None  # by DNSimple's clock, in seconds since 1970


class Budget(Protocol):
    """Consulted before each call and updated after it."""

    def acquire(self, purpose: Purpose, calls: int = 1) -> None:
        """Permit this number of calls, all or none; raises a `RetryableError` otherwise."""

    def update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Take the outcome of a permitted call into account."""

    def release(self, purpose: Purpose, calls: int) -> None:
        """Give back permitted calls that are not sent."""


class UnlimitedBudget:
    """Permits every call."""

    def acquire(self, purpose: Purpose, calls: int = 1) -> None:
        """Permit it."""

    def update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Ignore the outcome."""

    def release(self, purpose: Purpose, calls: int) -> None:
        """Ignore it."""


class _ObservedBudget:
    """Another budget whose outcomes an observer sees as well."""

    def __init__(self, budget: Budget, observe: Callable[[Answer], None]) -> None:
        self._budget = budget
        self._observe = observe
        self.acquire = budget.acquire
        self.release = budget.release

    def update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        self._observe(answer)
        self._budget.update(purpose, answer, error)


class _ReadOnlyBudget:
    """Another budget, but a rejected token does not block other callers: it was only tried."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.acquire = budget.acquire
        self.release = budget.release

    def update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        if isinstance(error, AuthenticationError):  # reported as a call without a response
            answer, error = replace(answer, status=None), None
        self._budget.update(purpose, answer, error)


class BudgetedCalls:
    """Acquires each call as it is sent, or has reserved some of them already."""

    def __init__(self, budget: Budget, purpose: Purpose = Purpose.BACKGROUND, *, reserved: int = 0) -> None:
        self._budget = budget
        self._purpose = purpose
        self._reserved = reserved

    def with_purpose(self, purpose: Purpose) -> BudgetedCalls:
        """The same budget, another part of the quota."""
        return BudgetedCalls(self._budget, purpose)

    def with_observer(self, observe: Callable[[Answer], None]) -> BudgetedCalls:
        """The same budget; `observe` is called with each outcome."""
        return BudgetedCalls(_ObservedBudget(self._budget, observe), self._purpose)

    def read_only(self) -> BudgetedCalls:
        """The same budget; a rejected token does not block other callers."""
        return BudgetedCalls(_ReadOnlyBudget(self._budget), self._purpose)

    @contextmanager
    def reserve(self, calls: int) -> Iterator[BudgetedCalls]:
        """Reserve this number of calls; those that were not sent are given back at the end."""
        self._budget.acquire(self._purpose, calls)
        reserved = BudgetedCalls(self._budget, self._purpose, reserved=calls)
        try:
            yield reserved
        finally:
            if reserved._reserved:
                self._budget.release(self._purpose, reserved._reserved)

    def begin(self) -> None:
        """Account for a call that is about to be sent. Raises a `RetryableError` if it must not be sent."""
        if self._reserved:
            self._reserved -= 1
        else:
            self._budget.acquire(self._purpose)

    def end(self, answer: Answer, error: CertcourierError | None) -> None:
        """Account for the outcome of a call."""
        self._budget.update(self._purpose, answer, error)
