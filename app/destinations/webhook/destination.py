"""A signed notification to an HTTP receiver, after the Standard Webhooks specification (version 1.0.0)."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationGoneError,
    DestinationRefusedError,
    DestinationUnavailableError,
    Version,
)
from app.destinations.webhook.http_client import Poster, Resolve, resolve
from app.destinations.webhook.message import (
    message_id,
    payload,
    read_public_key,
    read_secrets,
    signature_headers,
)
from app.retry_after import parse_retry_after

_LEAST_WAIT_SECONDS = 30.0
_MOST_WAIT_SECONDS = 6 * 3600.0
# Ended shortly before the service's time limit, which would abandon the thread.
_SHARE_OF_TIMEOUT = 0.95


class WebhookConfig(DestinationConfig):
    """`[[destination]]` with `kind = "webhook"`."""

    kind: Literal["webhook"] = "webhook"
    url: str = Field(repr=False, description="URL to post to: https, or http with `allow_private`.")
    secret_file: Path = Field(
        description="File with the signing secrets, one `whsec_...` per line, mode 0600. Each of them signs."
    )
    encrypt_key_to: Path | None = Field(
        None,
        description="File with the receiver's public key, a JWK. If set, the private key is sent too, encrypted to it.",
    )
    allow_private: bool = Field(False, description="Allow private, loopback and link-local addresses.")
    ca_bundle: Path | None = Field(
        None, description="PEM file of the receiver's certification authorities. Default: the system's."
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or not value.isascii()
            or not value.isprintable()
        ):
            raise ValueError("must be a URL such as https://hooks.example.com/certificates")
        if parts.fragment or parts.username is not None or parts.password is not None or " " in value:
            raise ValueError("must have no fragment, user, password or space")
        if parts.port == 0:
            raise ValueError("must have a valid port")
        return value

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.url.startswith("https://") and (self.encrypt_key_to is not None or not self.allow_private):
            raise ValueError("url must start with https:// (http only with allow_private and without encrypt_key_to)")
        return self


class WebhookDestination:
    """Posts one message per certificate; remembers, while the process lives, what was acknowledged."""

    Config = WebhookConfig

    def __init__(
        self,
        config: WebhookConfig,
        *,
        resolver: Resolve = resolve,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config = config
        self._resolver = resolver
        self._clock = clock
        self._lock = threading.Lock()
        self._acknowledged: dict[str, Version] = {}

    @property
    def config(self) -> WebhookConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        with self._lock:
            known = self._acknowledged.get(bundle.slot)
        if known is not None and known > bundle.version:
            return DeliveryResult("superseded", f"the newer certificate {known.certificate_id} was acknowledged")
        config, now = self._config, self._clock()
        encrypt_to = (
            read_public_key(config.encrypt_key_to, self._field("encrypt_key_to")) if config.encrypt_key_to else None
        )
        body = payload(bundle, now=now, encrypt_to=encrypt_to)
        identifier = message_id(config.name, bundle)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Certcourier",
            "Connection": "close",
            **signature_headers(self._secrets(), identifier, body, now=now),
        }
        poster = Poster(config.url, self._tls(), config.allow_private, self._resolver)
        answer = poster.post(body.encode(), headers, seconds=config.timeout_seconds * _SHARE_OF_TIMEOUT)
        response = f"{poster.host} answered {answer.status}"
        if answer.status == 410:
            raise DestinationGoneError(
                f"{config.name} is suspended: {response} Gone; once the receiver accepts messages again, run "
                f"`certcourier destinations resume {config.name}`"
            )
        if not 200 <= answer.status < 300:
            moved = "; redirects are not followed: set url to the new address" if answer.status // 100 == 3 else ""
            wait = parse_retry_after(
                answer.retry_after, now=self._clock(), least=_LEAST_WAIT_SECONDS, most=_MOST_WAIT_SECONDS
            )
            raise DestinationUnavailableError(f"{response} to message {identifier}{moved}", retry_after=wait)
        with self._lock:
            held = self._acknowledged.get(bundle.slot, bundle.version)
            self._acknowledged[bundle.slot] = max(held, bundle.version)
        return DeliveryResult("delivered", f"{response} to message {identifier}")

    def check(self) -> None:
        self._secrets()
        self._tls()
        if self._config.encrypt_key_to is not None:
            read_public_key(self._config.encrypt_key_to, self._field("encrypt_key_to"))

    def _secrets(self) -> list[str]:
        return read_secrets(self._config.secret_file, self._field("secret_file"))

    def _tls(self) -> ssl.SSLContext:
        bundle = self._config.ca_bundle
        try:
            return ssl.create_default_context(cafile=bundle)
        except (OSError, ssl.SSLError):
            field = self._field("ca_bundle")
            raise DestinationRefusedError(
                f"{field}: {bundle} must be a PEM file of certification authorities"
            ) from None

    def _field(self, name: str) -> str:
        return f"destination {self._config.name}: {name}"
