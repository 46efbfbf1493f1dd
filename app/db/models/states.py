"""The states of orders, deliveries, checks, jobs and certificates; tables, API, commands and pages use these."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import Dialect, String
from sqlalchemy.types import TypeDecorator


class OrderState(StrEnum):
    """How far an order is, in the order in which it gets there."""

    ACCEPTED = "accepted"
    PURCHASING = "purchasing"  # our call is under way; its answer may be lost
    PURCHASED = "purchased"
    REQUESTING = "requesting"  # likewise
    PENDING = "pending"  # DNSimple and the certification authority are issuing the certificate
    ISSUED = "issued"
    FETCHED = "fetched"  # certificate and key are retrieved, verified and stored
    FAILED = "failed"


FINAL_ORDER_STATES = frozenset({OrderState.FETCHED, OrderState.FAILED})


class DeliveryState(StrEnum):
    """How far a certificate is on its way to one destination."""

    PENDING = "pending"
    FAILING = "failing"  # the last attempt failed; a retry is due
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"  # a newer certificate of the lineage is there, or about to be
    FAILED = "failed"  # failed permanently: it is not retried until an operator asks for it

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the delivery automatically."""
        return self not in UNFINISHED_DELIVERIES


UNFINISHED_DELIVERIES = (DeliveryState.PENDING, DeliveryState.FAILING)
UNSUCCESSFUL_DELIVERIES = (DeliveryState.FAILING, DeliveryState.FAILED)


class EndpointState(StrEnum):
    """What an endpoint served at its last check."""

    UNVERIFIED = "unverified"  # delivered, but not verified yet
    SERVED = "served"
    STALE = "stale"  # another certificate is served
    UNREACHABLE = "unreachable"


class HookRunState(StrEnum):
    """How far a run of a hook is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABANDONED = "abandoned"  # its job lost the lease


class JobState(StrEnum):
    """How far a job is."""

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"  # failed permanently: it is not retried until an operator asks for it
    CANCELLED = "cancelled"


# DNSimple's states of a certificate, as its documentation names them; it may add others.
CERTIFICATE_STATES = (
    "new", "purchased", "configured", "submitted", "requesting",
    "issued", "rejected", "failed", "refunded", "cancelled",
)  # fmt: skip
FAILED_CERTIFICATE_STATES = frozenset({"rejected", "failed", "refunded", "cancelled"})


class Tone(StrEnum):
    """How a state is shown at a glance; each page and command has its colours for these."""

    GOOD = "good"
    BAD = "bad"
    BUSY = "busy"
    QUIET = "quiet"


_TONES: dict[str, Tone] = {
    **dict.fromkeys(
        (
            OrderState.ISSUED, OrderState.FETCHED, DeliveryState.DELIVERED, EndpointState.SERVED,
            HookRunState.SUCCEEDED, JobState.DONE,
            "queued", "ok",  # an event's outcome, a level of the doctor
        ),
        Tone.GOOD,
    ),
    **dict.fromkeys(
        (
            OrderState.FAILED, DeliveryState.FAILING, EndpointState.STALE, EndpointState.UNREACHABLE, JobState.DEAD,
            "rejected", "refunded", "suspended", "critical",  # certificates, destinations, a level of the doctor
        ),
        Tone.BAD,
    ),
    **dict.fromkeys(
        (
            OrderState.ACCEPTED, OrderState.PURCHASING, OrderState.PURCHASED, OrderState.REQUESTING,
            OrderState.PENDING, EndpointState.UNVERIFIED, JobState.READY, JobState.RUNNING,
            "new", "configured", "submitted", "warning",  # certificates, a level of the doctor
        ),
        Tone.BUSY,
    ),
}  # fmt: skip


def tone_of(state: str | None) -> Tone:
    """The tone of any state, outcome or level; quiet for all others."""
    return _TONES.get(state, Tone.QUIET) if state is not None else Tone.QUIET


class StateColumn[S: StrEnum](TypeDecorator[S]):
    """A state as text. A state that a newer version has written is read as the text that it is, and left alone."""

    impl = String(20)
    cache_ok = True

    def __init__(self, states: type[S]) -> None:
        super().__init__()
        self.states = states

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        try:
            return None if value is None else self.states(value)
        except ValueError:
            return value
