"""DNSimple's answers as values: the fields that we use, checked (contract, section 1.1).

Unknown fields are ignored and new states tolerated. A required field that is missing, or any used field of a wrong
type, raises `MalformedAnswerError`, which names the field and never its value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from app.crypto.private_key import PrivateKey
from app.identifiers import is_id


class MalformedAnswerError(ValueError):
    """An answer that does not have the shape in DNSimple's documentation."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token it is: an account's (with `account_id`) or a user's (without)."""

    account_id: int | None
    email: str | None

    @classmethod
    def read(cls, data: object) -> Self:
        """From `whoami`, where exactly one of account and user is not null."""
        owners = Fields(data, "whoami")
        account, user = owners.get("account"), owners.get("user")
        if account is not None:
            fields = Fields(account, "account")
            return cls(account_id=fields.id("id"), email=fields.optional_text("email"))
        if user is not None:
            return cls(account_id=None, email=Fields(user, "user").optional_text("email"))
        raise MalformedAnswerError("whoami names neither an account nor a user")


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain of the account. `state` is hosted, registered or expired; `expires_at` is UTC."""

    id: int
    name: str
    state: str | None
    expires_at: datetime | None

    @classmethod
    def read(cls, data: object) -> Self:
        """From a Domain object."""
        fields = Fields(data, "domain")
        return cls(
            id=fields.id("id"),
            name=fields.text("name"),
            state=fields.optional_text("state"),
            expires_at=fields.instant("expires_at") or fields.instant("expires_on"),
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What DNSimple has on record; for the names covered ask the X.509, since `alternate_names` can leave out the apex.

    `state` is one of contract section 2.1 or one that is new to us; instants are UTC.
    """

    id: int
    domain_id: int
    common_name: str
    name: str
    alternate_names: tuple[str, ...]
    state: str
    auto_renew: bool
    expires_at: datetime | None
    created_at: datetime | None

    @classmethod
    def read(cls, data: object) -> Self:
        """From a Certificate object."""
        fields = Fields(data, "certificate")
        return cls(
            id=fields.id("id"),
            domain_id=fields.id("domain_id"),
            common_name=fields.text("common_name"),
            name=fields.optional_text("name") or "",
            alternate_names=fields.texts("alternate_names"),
            state=fields.text("state"),
            auto_renew=fields.flag("auto_renew"),
            expires_at=fields.instant("expires_at") or fields.instant("expires_on"),
            created_at=fields.instant("created_at"),
        )


@dataclass(frozen=True, slots=True)
class Purchase:
    """An order at DNSimple; its own ID is of no use to us, `certificate_id` is what every later call takes."""

    certificate_id: int
    state: str

    @classmethod
    def read(cls, data: object) -> Self:
        """From a CertificatePurchase object."""
        fields = Fields(data, "purchase")
        return cls(certificate_id=fields.id("certificate_id"), state=fields.text("state"))


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewal ordered; `id` is of another number space than certificates."""

    id: int
    new_certificate_id: int

    @classmethod
    def read(cls, data: object) -> Self:
        """From a CertificateRenewal object."""
        fields = Fields(data, "renewal")
        return cls(id=fields.id("id"), new_certificate_id=fields.id("new_certificate_id"))


@dataclass(frozen=True, slots=True)
class Download:
    """PEM texts: the certificate, the intermediates in order (not each ends with a newline), and a root or None."""

    server: str
    chain: tuple[str, ...]
    root: str | None

    @classmethod
    def read(cls, data: object) -> Self:
        """From a CertificateBundle object."""
        fields = Fields(data, "bundle")
        return cls(server=fields.text("server"), chain=fields.texts("chain"), root=fields.optional_text("root"))


@dataclass(frozen=True, slots=True)
class Zone:
    """A domain's zone: whether DNSimple answers for it, and whether it is a copy of another's (Secondary DNS)."""

    active: bool
    secondary: bool

    @classmethod
    def read(cls, data: object) -> Self:
        """From a Zone object."""
        fields = Fields(data, "zone")
        return cls(active=fields.flag("active"), secondary=fields.flag("secondary"))


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of the account. `url` can hold a secret and stays out of `repr`; `suppressed_at` is UTC or None."""

    id: int
    url: str = field(repr=False)
    suppressed_at: datetime | None

    @classmethod
    def read(cls, data: object) -> Self:
        """From a Webhook object."""
        fields = Fields(data, "webhook")
        return cls(id=fields.id("id"), url=fields.text("url"), suppressed_at=fields.instant("suppressed_at"))


class Fields:
    """Typed access to a JSON object; null counts as absent."""

    __slots__ = ("_data", "_what")

    def __init__(self, data: object, what: str) -> None:
        if not isinstance(data, dict):
            raise MalformedAnswerError(f"{what} is not an object")
        self._data = data
        self._what = what

    def get(self, name: str) -> object:
        """The raw value, None if absent."""
        value: object = self._data.get(name)
        return value

    def id(self, name: str) -> int:
        """A required positive integer."""
        value = self.get(name)
        if is_id(value):
            return value
        raise self._wrong(name, "a positive integer")

    def text(self, name: str) -> str:
        """A required text that is not empty."""
        value = self.get(name)
        if isinstance(value, str) and value:
            return value
        raise self._wrong(name, "a text")

    def optional_text(self, name: str) -> str | None:
        """A text or None."""
        value = self.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(name, "a text")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty if absent."""
        value = self.get(name)
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self._wrong(name, "a list of texts")

    def flag(self, name: str) -> bool:
        """A boolean, false if absent."""
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self._wrong(name, "a boolean")

    def instant(self, name: str) -> datetime | None:
        """An ISO 8601 instant (or a date: its first moment) as UTC, None if absent."""
        text = self.optional_text(name)
        if text is None:
            return None
        try:
            instant = datetime.fromisoformat(text)
            return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        except (ValueError, OverflowError):
            raise self._wrong(name, "a time") from None

    def _wrong(self, name: str, wanted: str) -> MalformedAnswerError:
        return MalformedAnswerError(f"{self._what}.{name} is not {wanted}")


identity = Identity.read
domain = Domain.read
certificate = Certificate.read
purchase = Purchase.read
renewal = Renewal.read
download = Download.read
webhook = Webhook.read
zone = Zone.read


def private_key(data: object) -> PrivateKey:
    """From the answer of `private_key`."""
    return PrivateKey(Fields(data, "private key").text("private_key"))
