"""Who pays for a call out of the account's quota, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from app.dnsimple.errors import AuthenticationError
from app.errors import CertcourierError


class Purpose(StrEnum):
    """Whose part of the quota pays for a call."""

    INTERACTIVE = "interactive"  # somebody waits for an order
    BACKGROUND = "background"
    UNKNOWN = "unknown"  # a certificate or domain that only an event has told us of; free if DNSimple knows it
    REPEATED = "repeated"  # what is known already, looked at again on an event's word: of the unknown part, never free


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The account's quota as DNSimple's headers give it; `seconds_left` of the window by DNSimple's own clock."""

    limit: int
    remaining: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What an observer may know of a call: neither body nor token. `path` is a template without values."""

    method: str
    path: str
    status: int | None
    seconds: float
    rate_limit: RateLimit | None
    request_id: str | None
    sent_at: float | None = None  # by DNSimple's clock, in seconds since 1970


class Budget(Protocol):
    """Asked before each call, told after it."""

    def admit(self, purpose: Purpose, calls: int = 1) -> None:
        """Let so many calls be sent, all or none of them: else raise a `RetryableError`."""

    def settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Learn from a call that was admitted and has ended."""

    def give_back(self, purpose: Purpose, calls: int) -> None:
        """So many calls that were admitted are not sent."""


class UnlimitedBudget:
    """Lets every call pass."""

    def admit(self, purpose: Purpose, calls: int = 1) -> None:
        """Go ahead."""

    def settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Nothing to learn."""

    def give_back(self, purpose: Purpose, calls: int) -> None:
        """Nothing was taken."""


class _ObservedBudget:
    """Decides as another gate does, and tells somebody of every answer."""

    def __init__(self, budget: Budget, hear: Callable[[Answer], None]) -> None:
        self._budget = budget
        self._hear = hear
        self.admit = budget.admit
        self.give_back = budget.give_back

    def settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        self._hear(answer)
        self._budget.settle(purpose, answer, error)


class _ReadOnlyBudget:
    """Decides as another gate does, but a token that is rejected stops nobody: somebody only tried it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.admit = budget.admit
        self.give_back = budget.give_back

    def settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        if isinstance(error, AuthenticationError):  # of which the other gate learns as of a call without an answer
            answer, error = replace(answer, status=None), None
        self._budget.settle(purpose, answer, error)


class BudgetedCalls:
    """Pays for each call as it comes, or has paid for some of them already."""

    def __init__(self, budget: Budget, purpose: Purpose = Purpose.BACKGROUND, *, paid: int = 0) -> None:
        self._budget = budget
        self._purpose = purpose
        self._paid = paid

    def on_behalf_of(self, purpose: Purpose) -> BudgetedCalls:
        """One that spends another part of the quota."""
        return BudgetedCalls(self._budget, purpose)

    def with_observer(self, hear: Callable[[Answer], None]) -> BudgetedCalls:
        """One whose answers are told to somebody."""
        return BudgetedCalls(_ObservedBudget(self._budget, hear), self._purpose)

    def read_only(self) -> BudgetedCalls:
        """One whose rejected token stops nobody."""
        return BudgetedCalls(_ReadOnlyBudget(self._budget), self._purpose)

    @contextmanager
    def reserve(self, calls: int) -> Iterator[BudgetedCalls]:
        """One that has paid for so many calls, and gives back at the end what was not sent."""
        self._budget.admit(self._purpose, calls)
        calls_budget = BudgetedCalls(self._budget, self._purpose, paid=calls)
        try:
            yield calls_budget
        finally:
            if calls_budget._paid:
                self._budget.give_back(self._purpose, calls_budget._paid)

    def begin(self) -> None:
        """A call is about to be sent. Raises a `RetryableError` if it must not be."""
        if self._paid:
            self._paid -= 1
        else:
            self._budget.admit(self._purpose)

    def end(self, answer: Answer, error: CertcourierError | None) -> None:
        """It has ended."""
        self._budget.settle(self._purpose, answer, error)
