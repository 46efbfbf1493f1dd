"""AWS sessions, clients and errors, shared by the AWS destinations.

Credentials come from AWS's default chain (environment, profile, web identity, container, instance).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004, botocore's
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from pydantic import Field

from app.destinations.base import DestinationConfig, DestinationRefusedError, DestinationUnavailableError

Region = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]

SLOT_TAG = "certcourier:slot"
VERSION_TAG = "certcourier:version"

_SLOW_DOWN = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown", "PriorRequestNotComplete")
_WRONG_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class AwsConfig(DestinationConfig):
    """The fields of both AWS kinds."""

    profile: str | None = Field(
        None, description="Profile of AWS's shared configuration. Default: AWS's credential chain."
    )
    endpoint_url: str | None = Field(
        None, pattern=r"^https?://", description="URL of the service, for a private endpoint or a test server."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Further tags, set at the first delivery.")


class Aws:
    """Clients by region, created when first needed. Thread-safe."""

    def __init__(self, config: AwsConfig, service: str) -> None:
        self._config = config
        self._service = service
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    def client(self, region: str) -> Any:
        """The client of a region."""
        with self._lock:
            if region not in self._clients:
                session = self._open()
                # One attempt: the job queue retries, without blocking a worker's thread.
                options = Config(
                    connect_timeout=min(10.0, self._config.timeout_seconds),
                    read_timeout=min(30.0, self._config.timeout_seconds),
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    user_agent_extra="certcourier",
                )
                self._clients[region] = session.client(
                    self._service, region_name=region, endpoint_url=self._config.endpoint_url, config=options
                )
            return self._clients[region]

    def check(self) -> None:
        """Raise `DestinationRefusedError` if the profile does not exist. Makes no request."""
        with self.translated_errors("", ""), self._lock:
            self._open()

    def _open(self) -> Any:
        if self._session is None:
            self._session = boto3.session.Session(profile_name=self._config.profile)
        return self._session

    @contextmanager
    def translated_errors(self, region: str, what: str) -> Iterator[None]:
        """Raise AWS's errors as `DestinationUnavailableError` or `DestinationRefusedError`. `what` is the slot."""
        where = f"{self._config.name}: {self._service} in {region}, {what}" if region else self._config.name
        try:
            yield
        except ClientError as error:
            raise _translated(error, self._service, where) from None
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise DestinationRefusedError(
                f"{where}: no usable AWS credentials ({error}); give this process a role, or set profile or AWS's "
                "environment variables"
            ) from None
        except SSLError:
            raise DestinationUnavailableError(f"{where}: TLS failed; check AWS_CA_BUNDLE and proxies") from None
        except (ConnectionError, HTTPClientError, CredentialRetrievalError) as error:
            raise DestinationUnavailableError(
                f"{where}: no answer ({type(error).__name__}); check the network and endpoint_url"
            ) from None
        except BotoCoreError as error:
            raise DestinationRefusedError(f"{where}: {error}") from None


def _translated(error: ClientError, service: str, where: str) -> DestinationRefusedError | DestinationUnavailableError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code.startswith(_SLOW_DOWN) or status == 429:
        return DestinationUnavailableError(f"{where}: AWS is throttling requests ({code}); retrying later")
    if status >= 500 or code in {"RequestInProgressException", "ResourceInUseException"}:
        return DestinationUnavailableError(f"{where}: AWS failed ({code or status}); retrying later")
    if code in _WRONG_CREDENTIALS:
        return DestinationRefusedError(f"{where}: AWS rejected the credentials ({code}); renew them")
    if code.startswith("AccessDenied"):
        action = f"{service}:{error.operation_name}"
        return DestinationRefusedError(f"{where}: allow the action {action} to the role or user ({code})")
    return DestinationRefusedError(f"{where}: {error.operation_name} was refused: {code}: {message}")
