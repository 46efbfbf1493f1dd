"""What every kind of destination promises, and the errors it speaks in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.errors import PermanentError, RetryableError


class DestinationUnavailableError(RetryableError):
    """The destination could not be written now; the same delivery can succeed later."""


class DestinationRefusedError(PermanentError):
    """The destination will not take this delivery until somebody changes something; the message says what."""


class DestinationGoneError(DestinationRefusedError):
    """The other side wants no more deliveries, this or any: it is left alone until the operator enables it again."""


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
class Change:
    """What may be said of a certificate that is in place, to those who get no key.

    `places` are the files of the destinations that the one who hears this comes `after`, each by its name.
    """

    slot: str
    certificate_id: int
    common_name: str
    names: tuple[str, ...]
    fingerprint: str
    places: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """One verified certificate for one slot. `slot` is the lineage's name, safe as a file name. PEM texts.

    `common_name` and `places` are as in `Change`.
    """

    slot: str
    version: Version
    names: tuple[str, ...]
    fingerprint: str
    leaf_pem: str
    chain_pem: str
    key: PrivateKeyPem
    common_name: str = ""
    places: Mapping[str, Path] = field(default_factory=dict)

    @property
    def fullchain_pem(self) -> str:
        """The leaf, then its chain: what a TLS server sends."""
        return self.leaf_pem + self.chain_pem

    @property
    def change(self) -> Change:
        """The same without PEM texts and key."""
        return Change(
            self.slot, self.version.certificate_id, self.common_name, self.names, self.fingerprint, self.places
        )


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What became of a delivery: the slot holds it now, or held a newer certificate already. `detail` is for people."""

    outcome: Literal["delivered", "superseded"]
    detail: str


def _pattern(text: str) -> str:
    pattern = text.strip().lower()
    if not pattern or ("*" in pattern.removeprefix("*.") and pattern != "*"):
        raise ValueError("a pattern is `*`, a host name in A-labels, or `*.` before one: all names below it")
    return pattern


Pattern = Annotated[str, AfterValidator(_pattern)]


class DestinationConfig(BaseModel):
    """What every `[[destination]]` may say. Each kind adds its own fields, `kind` first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Unique name of the destination.")
    domains: tuple[Pattern, ...] = Field(
        ("*",),
        min_length=1,
        description="Which certificates are delivered there: host names, `*.example.com` for all names below it, or "
        "`*`; a certificate with at least one such name is.",
    )
    after: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)] = (
        Field((), description="Names of destinations that must have a certificate before it is delivered there.")
    )
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="How long a delivery may take, in seconds.")
    at_once: int = Field(4, ge=1, le=64, description="Deliveries that one worker process makes there at a time.")

    def takes(self, names: Iterable[str]) -> bool:
        """Whether a certificate of these names is delivered there."""
        return takes(self.domains, names)


def takes(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether at least one of the names is one that a pattern means."""
    names = tuple(names)
    return any(_matches(pattern, name) for pattern in patterns for name in names)


def _matches(pattern: str, name: str) -> bool:
    return pattern in {"*", name} or (pattern.startswith("*.") and name.endswith(pattern[1:]))


class Destination(Protocol):
    """One configured destination."""

    @property
    def config(self) -> DestinationConfig:
        """What the operator said of it."""

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        """Put the certificate into its slot, unless a newer one is there. Idempotent.

        Raises `DestinationUnavailableError` or `DestinationRefusedError`.
        """

    def current(self, slot: str) -> Version | None:
        """Which certificate the slot holds now."""

    def check(self) -> None:
        """Raise `DestinationRefusedError` if the configuration cannot work. Changes nothing."""


@runtime_checkable
class HasPlaces(Destination, Protocol):
    """A destination whose slots are files that others can be told of."""

    def places(self, slot: str) -> Mapping[str, Path]:
        """`folder`, and each file by its name without extension."""


@runtime_checkable
class SupportsHookRuns(Destination, Protocol):
    """A destination where one run serves all certificates that are in place when it starts."""

    @property
    def min_interval_seconds(self) -> float | None:
        """Least time from the start of one run to the next, or None where each certificate has a run of its own."""

    def run(self, changes: Sequence[Change]) -> str:
        """One run. Returns what it said; raises as `Destination.deliver` does."""


class DestinationKind(Protocol):
    """The class of a kind of destination. Making one opens no connection and never fails."""

    Config: type[DestinationConfig]

    def __call__(self, config: Any) -> Destination:
        """`config` is of the class `Config`."""
