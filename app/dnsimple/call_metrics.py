"""A gate that counts the calls which another gate lets through."""

from __future__ import annotations

from app.dnsimple.purposes import Answer, Budget, Purpose
from app.errors import CertcourierError
from app.metrics import ProcessMetrics


class MeasuredBudget:
    """Decides nothing itself."""

    def __init__(self, budget: Budget, metrics: ProcessMetrics) -> None:
        self._budget = budget
        self._metrics = metrics

    def admit(self, purpose: Purpose, calls: int = 1) -> None:
        """As the other gate says."""
        self._budget.admit(purpose, calls)

    def settle(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        """Count it, then pass it on."""
        self._metrics.observe_dnsimple_call(answer.method, answer.path, answer.status, answer.seconds)
        self._budget.settle(purpose, answer, error)

    def give_back(self, purpose: Purpose, calls: int) -> None:
        """As the other gate does."""
        self._budget.give_back(purpose, calls)
