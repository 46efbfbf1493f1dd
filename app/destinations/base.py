"""The contract of every kind of destination: its protocol, its errors and what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.crypto.private_key import PrivateKey
from app.errors import PermanentError, RetryableError


class DestinationUnavailableError(RetryableError):
    """The destination cannot be written now; the same delivery may succeed later."""


class DestinationRefusedError(PermanentError):
    """The destination refuses this delivery until the operator changes something; the message names it."""


class DestinationGoneError(DestinationRefusedError):
    """The receiver refuses all deliveries: the destination is suspended until the operator resumes it."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Which certificate is newer: by notBefore, then by DNSimple's ID."""

    not_before: datetime
    certificate_id: int


@dataclass(frozen=True, slots=True)
class Change:
    """A certificate that is in place, for hooks and receivers that get no private key.

    `places`: the files of the destinations in `after`, by name.
    """

    slot: str
    certificate_id: int
    common_name: str
    names: tuple[str, ...]
    fingerprint: str
    places: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """One verified certificate with its private key, for one slot. `slot` is the lineage's name, safe as a file name.

    `common_name` and `places` are as in `Change`.
    """

    slot: str
    version: Version
    names: tuple[str, ...]
    fingerprint: str
    leaf_pem: str
    chain_pem: str
    key: PrivateKey
    common_name: str = ""
    places: Mapping[str, Path] = field(default_factory=dict)

    @property
    def fullchain_pem(self) -> str:
        """The leaf followed by its chain, as a TLS server sends it."""
        return self.leaf_pem + self.chain_pem

    @property
    def change(self) -> Change:
        """The same without PEM texts and private key."""
        return Change(
            self.slot, self.version.certificate_id, self.common_name, self.names, self.fingerprint, self.places
        )


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """Whether the slot holds the certificate now, or already held a newer one. `detail` is shown to operators."""

    outcome: Literal["delivered", "superseded"]
    detail: str


def _pattern(text: str) -> str:
    pattern = text.strip().lower()
    if not pattern or ("*" in pattern.removeprefix("*.") and pattern != "*"):
        raise ValueError("must be `*`, a host name in A-labels, or `*.` followed by one: all names below it")
    return pattern


Pattern = Annotated[str, AfterValidator(_pattern)]


class DestinationConfig(BaseModel):
    """The fields of every `[[destination]]`. Each kind adds its own, `kind` first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Unique name of the destination.")
    domains: tuple[Pattern, ...] = Field(
        ("*",),
        min_length=1,
        description="Deliver certificates with at least one of these names: host names, `*.example.com` for all names "
        "below it, or `*` for all.",
    )
    after: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)] = (
        Field((), description="Destinations that must hold a certificate before it is delivered to this one.")
    )
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="Time limit of a delivery, in seconds.")
    max_concurrency: int = Field(4, ge=1, le=64, description="Concurrent deliveries of one worker process.")

    def takes(self, names: Iterable[str]) -> bool:
        """Whether a certificate with these names is delivered to this destination."""
        return takes(self.domains, names)


def takes(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a pattern matches at least one of the names."""
    names = tuple(names)
    return any(_matches(pattern, name) for pattern in patterns for name in names)


def _matches(pattern: str, name: str) -> bool:
    return pattern in {"*", name} or (pattern.startswith("*.") and name.endswith(pattern[1:]))


class Destination(Protocol):
    """One configured destination."""

    @property
    def config(self) -> DestinationConfig:
        """Its table in the destinations file."""

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        """Write the certificate to its slot, unless the slot holds a newer one. Idempotent.

        Raises `DestinationUnavailableError` or `DestinationRefusedError`.
        """

    def check(self) -> None:
        """Raise `DestinationRefusedError` if the configuration cannot work. Changes nothing."""


@runtime_checkable
class HasPlaces(Destination, Protocol):
    """A destination whose slots are files that other destinations can refer to."""

    def places(self, slot: str) -> Mapping[str, Path]:
        """`folder`, and the slot's files by name without extension."""


@runtime_checkable
class SupportsHookRuns(Destination, Protocol):
    """A destination where one hook run serves all certificates that are in place when it starts."""

    @property
    def min_interval_seconds(self) -> float | None:
        """Least time between the starts of two runs, in seconds; None if each certificate has its own run."""

    def run(self, changes: Sequence[Change]) -> str:
        """Run the hook. Returns its output; raises as `Destination.deliver` does."""


class DestinationKind(Protocol):
    """The class of a kind of destination. Its constructor opens no connection and never fails."""

    Config: type[DestinationConfig]

    def __call__(self, config: Any) -> Destination:
        """`config` is an instance of `Config`."""
