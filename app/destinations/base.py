"""What every kind of destination promises, and the errors it speaks in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from app.errors import PermanentError, RetryableError


class DestinationUnavailableError(RetryableError):
    """The destination could not be written now; the same delivery can succeed later."""


class DestinationRefusedError(PermanentError):
    """The destination will not take this delivery until somebody changes something; the message says what."""


class PrivateKeyPem:
    """A private key on its way to a destination. It prints as nothing."""

    __slots__ = ("_pem",)

    def __init__(self, pem: str) -> None:
        self._pem = pem

    def reveal(self) -> str:
        """The PEM text, for the destination's own use."""
        return self._pem

    def __repr__(self) -> str:
        return "<PrivateKeyPem, not shown>"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Which certificate is newer: by notBefore, then by DNSimple's ID."""

    not_before: datetime
    certificate_id: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """One verified certificate for one slot. `slot` is the lineage's name, safe as a file name. PEM texts."""

    slot: str
    version: Version
    names: tuple[str, ...]
    fingerprint: str
    leaf_pem: str
    chain_pem: str
    key: PrivateKeyPem

    @property
    def fullchain_pem(self) -> str:
        """The leaf, then its chain: what a TLS server sends."""
        return self.leaf_pem + self.chain_pem


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery: the slot holds it now, or held a newer certificate already. `detail` is for people."""

    outcome: Literal["delivered", "superseded"]
    detail: str


class Destination(Protocol):
    """One configured destination."""

    @property
    def name(self) -> str:
        """The operator's name for it, unique."""

    @property
    def timeout_seconds(self) -> float:
        """How long a delivery may take (see `app.destinations.limits`)."""

    def deliver(self, bundle: Bundle) -> Receipt:
        """Put the certificate into its slot, unless a newer one is there. Idempotent.

        Raises `DestinationUnavailableError` or `DestinationRefusedError`.
        """

    def current(self, slot: str) -> Version | None:
        """Which certificate the slot holds now."""

    def check(self) -> None:
        """Raise `DestinationRefusedError` if the configuration cannot work. Changes nothing."""
