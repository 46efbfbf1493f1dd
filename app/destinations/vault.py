"""Certificates as secrets of Vault or OpenBao (KV version 2).

One secret per slot holds certificate and key together. It is written with check-and-set against the version that was
read: of two concurrent writers one fails, reads again, and stops if the other certificate is newer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import hvac
import hvac.exceptions as vault_errors
import requests
from pydantic import Field, model_validator

from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
    Version,
)
from app.destinations.credentials import read_credential
from app.destinations.secret_document import MAX_CONFLICTS, secret_document
from app.destinations.slots import SlotTemplate, fill, parse_version

_UNAVAILABLE = (
    vault_errors.VaultDown,
    vault_errors.VaultNotInitialized,
    vault_errors.InternalServerError,
    vault_errors.BadGateway,
    vault_errors.RateLimitExceeded,
    vault_errors.PreconditionFailed,  # a replica lags behind
    requests.RequestException,
)


class VaultConfig(DestinationConfig):
    """`[[destination]]` with `kind = "vault"`."""

    kind: Literal["vault"]
    address: str = Field(pattern=r"^https?://[^/]+", description="URL of the server.")
    token_file: Path | None = Field(
        None,
        description="File with a token, mode 0600; read again when the token is rejected, so that it can be replaced.",
    )
    role_id: str | None = Field(None, description="Role ID of an AppRole, instead of a token.")
    secret_id_file: Path | None = Field(None, description="File with the AppRole's secret ID, mode 0600.")
    auth_mount: str = Field("approle", description="Mount path of the AppRole method.")
    namespace: str | None = Field(None, description="Namespace of the login and of the secrets.")
    ca_bundle: Path | None = Field(None, description="PEM file of the server's certification authorities.")
    mount: str = Field("secret", description="Mount path of the KV version 2 engine.")
    path: SlotTemplate = Field("certcourier/{slot}", description="Path of the secret; `{slot}` is the lineage's name.")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        approle = self.role_id is not None and self.secret_id_file is not None
        partly = self.role_id is not None or self.secret_id_file is not None
        if (self.token_file is not None) == approle or partly != approle:
            raise ValueError("set token_file, or role_id and secret_id_file")
        return self


@dataclass(frozen=True, slots=True)
class _Held:
    """The secret at a path: its version number for check-and-set, and its fields, None if there are none."""

    number: int
    fields: dict[str, Any] | None
    custom: dict[str, str]

    @property
    def version(self) -> Version | None:
        return parse_version((self.fields or {}).get("version"))


class VaultDestination:
    """Writes secrets; logs in when first needed, and again once when the login is rejected."""

    Config = VaultConfig

    def __init__(self, config: VaultConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._logged_in: hvac.Client | None = None

    @property
    def config(self) -> VaultConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        path, document = fill(self._config.path, bundle.slot), secret_document(bundle)
        with self._translated_errors(path):
            for _ in range(MAX_CONFLICTS):
                held = self._read(path)
                if held.fields is not None and held.version is None:
                    raise DestinationRefusedError(
                        f"{self._at(path)} holds a secret that Certcourier did not write; move it away, or choose "
                        "another path"
                    )
                if held.version is not None and held.version > bundle.version:
                    newer = held.version.certificate_id
                    return DeliveryResult("superseded", f"{self._at(path)} holds the newer certificate {newer}")
                if held.fields == document or self._write(path, document, held.number):
                    self._describe(path)
                    return DeliveryResult("delivered", self._at(path))
        raise DestinationUnavailableError(f"{self._at(path)}: too many concurrent writers; retrying later")

    def check(self) -> None:
        config = self._config
        if config.token_file:
            read_credential(config.token_file, f"destination {config.name}: token_file")
        if config.secret_id_file:
            read_credential(config.secret_id_file, f"destination {config.name}: secret_id_file")
        if config.ca_bundle and not config.ca_bundle.is_file():
            raise DestinationRefusedError(f"destination {config.name}: ca_bundle {config.ca_bundle} is not a file")

    def _read(self, path: str) -> _Held:
        def read(client: hvac.Client) -> Any:
            return client.secrets.kv.v2.read_secret_version(
                path, mount_point=self._config.mount, raise_on_deleted_version=True
            )

        try:
            data = self._call(read)["data"]
        except vault_errors.InvalidPath as error:  # no secret, or its last version was deleted or destroyed
            data = (error.json or {}).get("data") or {"metadata": {"version": 0}}
        metadata = data["metadata"]
        return _Held(int(metadata["version"]), data.get("data"), metadata.get("custom_metadata") or {})

    def _write(self, path: str, document: dict[str, Any], number: int) -> bool:
        """False if the secret has changed since its version `number` was read."""

        def write(client: hvac.Client) -> Any:
            return client.secrets.kv.v2.create_or_update_secret(
                path, document, cas=number, mount_point=self._config.mount
            )

        try:
            self._call(write)
        except vault_errors.InvalidRequest as error:
            if "check-and-set" in str(error):
                return False
            raise
        return True

    def _describe(self, path: str) -> None:
        """Set custom metadata that describes the secret. There is no check-and-set for it, so read again afterwards."""
        held, described = self._read(path), None
        while held.fields and held.number != described:
            ours = {name: str(held.fields.get(name, "")) for name in ("version", "fingerprint", "lineage")}
            custom = held.custom | ours | {"managed-by": "certcourier"}
            if custom == held.custom:
                return
            described = held.number
            self._call(lambda client, custom=custom: self._write_custom(client, path, custom))  # type: ignore[misc]
            held = self._read(path)

    def _write_custom(self, client: hvac.Client, path: str, custom: dict[str, str]) -> None:
        # The library's own call would also set delete_version_after to nothing.
        client.adapter.post(f"/v1/{self._config.mount}/metadata/{path}", json={"custom_metadata": custom})

    def _call[T](self, action: Callable[[hvac.Client], T]) -> T:
        client = self._client()
        try:
            return action(client)
        except (
            vault_errors.Forbidden,
            vault_errors.Unauthorized,
        ):  # an expired token and a missing permission look the same
            return action(self._client(instead_of=client))

    def _client(self, instead_of: hvac.Client | None = None) -> hvac.Client:
        with self._lock:
            if self._logged_in is None or self._logged_in is instead_of:
                self._logged_in = None
                self._logged_in = self._login()
            return self._logged_in

    def _login(self) -> hvac.Client:
        config = self._config
        token = (
            read_credential(config.token_file, f"destination {config.name}: token_file") if config.token_file else ""
        )
        client = hvac.Client(
            url=config.address,
            token=token,  # never from the environment
            namespace=config.namespace,
            verify=str(config.ca_bundle) if config.ca_bundle else True,
            timeout=min(config.timeout_seconds, 30.0),
        )
        if config.secret_id_file:
            secret_id = read_credential(config.secret_id_file, f"destination {config.name}: secret_id_file")
            try:
                client.auth.approle.login(config.role_id, secret_id, mount_point=config.auth_mount)
            except (vault_errors.InvalidRequest, vault_errors.Forbidden, vault_errors.InvalidPath):
                raise DestinationRefusedError(
                    f"destination {config.name}: {config.address} refused the AppRole login; check role_id, "
                    "secret_id_file, auth_mount and namespace"
                ) from None
        return client

    @contextmanager
    def _translated_errors(self, path: str) -> Iterator[None]:
        """Raise the library's errors as `DestinationUnavailableError` or `DestinationRefusedError`."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise DestinationUnavailableError(f"{self._config.address}: TLS failed; retrying") from None
            raise DestinationRefusedError(
                f"{self._config.address}: its certificate is not trusted; set ca_bundle to its certification authority"
            ) from None
        except _UNAVAILABLE as error:
            reason = "it does not answer" if isinstance(error, requests.RequestException) else str(error)
            raise DestinationUnavailableError(
                f"{self._config.address}: {reason}; check that it is running and unsealed"
            ) from None
        except (vault_errors.Forbidden, vault_errors.Unauthorized):
            raise DestinationRefusedError(
                f"{self._at(path)}: permission denied; check the token and that its policy allows create, read and "
                "update there, for data and metadata (docs/destinations.md has a policy)"
            ) from None
        except vault_errors.VaultError as error:
            raise DestinationRefusedError(
                f"{self._at(path)}: {error}; check mount (KV version 2), path and namespace"
            ) from None

    def _at(self, path: str) -> str:
        namespace = f"{self._config.namespace.strip('/')}/" if self._config.namespace else ""
        return f"{self._config.address}, {namespace}{self._config.mount}/{path}"
