"""Certificates as `kubernetes.io/tls` secrets, by server-side apply.

The first delivery creates the secret, which fails if it exists. A renewal applies to the resource version that was
read: of two concurrent writers one gets a conflict, reads again, and stops if the other certificate is newer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import urllib3
from kubernetes import client as api
from kubernetes import config as login
from kubernetes.config.config_exception import ConfigException
from pydantic import Field

from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
)
from app.destinations.credentials import read_credential
from app.destinations.secret_document import MAX_CONFLICTS
from app.destinations.slots import SlotTemplate, fill, parse_version, version_text
from app.retry_after import parse_retry_after

_MANAGER = "certcourier"
_MANAGED_BY = {"app.kubernetes.io/managed-by": _MANAGER}
_LINEAGE, _VERSION = "certcourier/lineage", "certcourier/version"

_DNS_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME = 253


class KubernetesConfig(DestinationConfig):
    """`[[destination]]` with `kind = "kubernetes"`."""

    kind: Literal["kubernetes"]
    kubeconfig: Path | None = Field(None, description="Kubeconfig file, mode 0600. Default: the pod's service account.")
    context: str | None = Field(None, description="Context of the kubeconfig. Default: its current one.")
    namespace: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="Namespace of the secrets. It must exist."
    )
    secret_name: SlotTemplate = Field("{slot}", description="Name of the secret; `{slot}` is the lineage's name.")


class KubernetesDestination:
    """Creates and applies secrets with its labels, and changes no others."""

    Config = KubernetesConfig

    def __init__(self, config: KubernetesConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._logged_in: Any = None

    @property
    def config(self) -> KubernetesConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        name = secret_name(self._config.secret_name, bundle.slot)
        with self._translated_errors(name):
            for _ in range(MAX_CONFLICTS):
                result = self._try(name, bundle)
                if result is not None:
                    return result
        raise DestinationUnavailableError(f"{self._at(name)}: too many concurrent writers; retrying later")

    def check(self) -> None:
        with self._translated_errors("secrets"):
            self._client()

    def _try(self, name: str, bundle: Bundle) -> DeliveryResult | None:
        """None if another writer was faster: then read again."""
        found, wanted = self._read(name), _manifest(name, self._config.namespace, bundle)
        if found is None:
            done = self._unless_conflict(
                lambda core, **options: core.create_namespaced_secret(
                    self._config.namespace, wanted, field_manager=_MANAGER, **options
                )
            )
            return DeliveryResult("delivered", self._at(name)) if done else None
        self._check_owner(found, name, bundle.slot)
        held = parse_version(_annotations(found).get(_VERSION))
        if held is not None and held > bundle.version:
            return DeliveryResult("superseded", f"{self._at(name)} holds the newer certificate {held.certificate_id}")
        if found.get("data") == wanted["data"] and _has(found, wanted):
            return DeliveryResult("delivered", self._at(name))
        wanted["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        done = self._unless_conflict(lambda core, **options: self._apply(core, name, wanted, options))
        return DeliveryResult("delivered", self._at(name)) if done else None

    def _apply(self, core: Any, name: str, wanted: dict[str, Any], options: dict[str, Any]) -> Any:
        """Server-side apply, which `patch_namespaced_secret` does not support."""
        return core.api_client.call_api(
            "/api/v1/namespaces/{namespace}/secrets/{name}",
            "PATCH",
            {"namespace": self._config.namespace, "name": name},
            # Forced: the secret is managed by Certcourier, also if another manager has changed a field.
            [("fieldManager", _MANAGER), ("force", "true")],
            {"Accept": "application/json", "Content-Type": "application/apply-patch+yaml"},
            body=wanted,
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            **options,
        )

    def _check_owner(self, found: dict[str, Any], name: str, slot: str) -> None:
        labels = found["metadata"].get("labels") or {}
        lineage = _annotations(found).get(_LINEAGE)
        if not _MANAGED_BY.items() <= labels.items() or lineage != slot or found.get("type") != "kubernetes.io/tls":
            raise DestinationRefusedError(
                f"{self._at(name)} is not managed by Certcourier for {slot} (its lineage: {lineage or 'none'}); "
                "delete it, or choose another secret_name"
            )

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            answer = self._call(lambda core, **more: core.read_namespaced_secret(name, self._config.namespace, **more))
        except api.ApiException as error:
            if error.status == 404:
                return None
            raise
        found: dict[str, Any] = json.loads(answer)
        return found

    def _unless_conflict(self, action: Callable[..., Any]) -> bool:
        try:
            self._call(action)
        except api.ApiException as error:
            if error.status == 409:
                return False
            raise
        return True

    def _call(self, action: Callable[..., Any]) -> bytes:
        """The response's body, unparsed. Logs in again once if the login is rejected."""
        client = self._client()
        seconds = min(self._config.timeout_seconds, 30.0)
        options = {"_request_timeout": seconds, "_preload_content": False}
        try:
            answer = action(api.CoreV1Api(client), **options)
        except api.ApiException as error:
            if error.status != 401:
                raise
            answer = action(api.CoreV1Api(self._client(instead_of=client)), **options)
        body: bytes = answer.data
        return body

    def _client(self, instead_of: Any = None) -> Any:
        with self._lock:
            if self._logged_in is None or self._logged_in is instead_of:
                self._logged_in = None
                self._logged_in = self._login()
            return self._logged_in

    def _login(self) -> Any:
        configuration = api.Configuration()
        configuration.retries = False
        if self._config.kubeconfig is None:
            login.load_incluster_config(client_configuration=configuration)
            return api.ApiClient(configuration)
        path = self._config.kubeconfig
        read_credential(path, "kubeconfig")
        login.load_kube_config(
            str(path), context=self._config.context, client_configuration=configuration, persist_config=False
        )
        return api.ApiClient(configuration)

    @contextmanager
    def _translated_errors(self, name: str) -> Iterator[None]:
        """Raise the library's errors as ours. Responses are not shown in full: they may quote the secret."""
        try:
            yield
        except api.ApiException as error:
            raise self._translated(error, name) from None
        except urllib3.exceptions.HTTPError as error:
            raise DestinationUnavailableError(
                f"{self._at(name)}: the API server does not respond ({type(error).__name__}); check that it is running"
            ) from None
        except OSError as error:
            raise DestinationRefusedError(
                f"destination {self._config.name}: kubeconfig {error.filename}: {error.strerror}"
            ) from None
        except ConfigException:
            raise DestinationRefusedError(
                f"destination {self._config.name}: no login; set kubeconfig and context to a valid file, or run in a "
                "pod with a service account"
            ) from None

    def _translated(self, error: api.ApiException, name: str) -> DestinationRefusedError | DestinationUnavailableError:
        at = self._at(name)
        if error.status == 0 and "CERTIFICATE_VERIFY_FAILED" in str(error.reason):
            return DestinationRefusedError(
                f"{at}: the API server's certificate is not trusted; check the kubeconfig's certification authority"
            )
        if error.status in {0, 429} or error.status >= 500:
            after = (error.headers or {}).get("Retry-After")
            return DestinationUnavailableError(
                f"{at}: the API server is unavailable ({error.status}); retrying later",
                retry_after=parse_retry_after(after, now=datetime.now(UTC)),
            )
        if error.status == 401:
            return DestinationRefusedError(f"{at}: the API server rejected the credentials; renew them")
        if error.status == 403:
            return DestinationRefusedError(
                f"{at}: permission denied; allow get, create and patch of secrets in namespace {self._config.namespace}"
                " (docs/destinations.md has a role)"
            )
        if error.status == 404:
            return DestinationRefusedError(f"{at}: namespace {self._config.namespace} does not exist; create it")
        return DestinationRefusedError(
            f"{at}: the API server refused the secret ({error.status} {error.reason}); is it immutable, or is there an "
            "admission policy?"
        )

    def _at(self, name: str) -> str:
        return f"Kubernetes, {self._config.namespace}/{name}"


def secret_name(template: str, slot: str) -> str:
    """A valid name for a secret: `*.example.com` becomes `example.com.wildcard`, which is no host name.

    A name that is too long or no DNS name is shortened and ends in a digest.
    """
    fill(template, slot)
    readable = f"{slot.removeprefix('_wildcard.')}.wildcard" if slot.startswith("_wildcard.") else slot
    name = template.replace("{slot}", readable)
    if len(name) <= _LONGEST_NAME and _DNS_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(slot.encode()).hexdigest()[:12]
    labels = (re.sub(r"[^a-z0-9-]", "-", label).strip("-") for label in name.lower().split("."))
    cut = ".".join(label for label in labels if label)[: _LONGEST_NAME - len(digest) - 1]
    return f"{cut.rstrip('.-')}-{digest}"


def _manifest(name: str, namespace: str, bundle: Bundle) -> dict[str, Any]:
    annotations = {
        _LINEAGE: bundle.slot,
        _VERSION: version_text(bundle.version),
        "certcourier/certificate-id": str(bundle.version.certificate_id),
        "certcourier/not-before": bundle.version.not_before.isoformat(),
        "certcourier/fingerprint": bundle.fingerprint,
    }
    pems = {"tls.crt": bundle.fullchain_pem, "tls.key": bundle.key.reveal()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(_MANAGED_BY), "annotations": annotations},
        "data": {field: base64.b64encode(pem.encode()).decode() for field, pem in pems.items()},
    }


def _annotations(secret: dict[str, Any]) -> dict[str, str]:
    return secret["metadata"].get("annotations") or {}


def _has(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return bool(wanted["metadata"]["annotations"].items() <= _annotations(found).items())
