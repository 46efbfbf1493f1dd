"""A client for ACME Renewal Information (RFC 9773): when a certification authority wants a certificate renewed."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests
from cryptography import x509

from app.errors import PermanentError, RetryableError
from app.retry_after import parse_retry_after

_TIMEOUTS = (5.0, 15.0)  # seconds to connect, and between two bytes of the answer
# RFC 9773, section 4.3: limits within which a client follows Retry-After.
_SHORTEST_PAUSE = 60.0
_LONGEST_PAUSE = 86_400.0
_USUAL_PAUSE = 21_600.0


class AuthorityUnavailableError(RetryableError):
    """The authority gave no usable answer; `retry_after` is in seconds."""


class NotOfThisAuthorityError(PermanentError):
    """The authority does not know the certificate, or the certificate does not identify its authority."""


@dataclass(frozen=True, slots=True)
class RenewalInfoResponse:
    """The window in which to renew, UTC, and after how many seconds to check again."""

    start: datetime
    end: datetime
    explanation_url: str | None
    retry_after: float


def certificate_identifier(leaf_pem: str) -> str:
    """RFC 9773, section 4.1: base64url of the authority's key identifier, a dot, base64url of the serial's DER bytes.

    Raises `NotOfThisAuthorityError` if the certificate does not identify its authority's key.
    """
    leaf = x509.load_pem_x509_certificate(leaf_pem.encode())
    try:
        key = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        key = None
    if key is None:
        raise NotOfThisAuthorityError("the certificate does not identify its authority's key")
    serial = leaf.serial_number
    # DER integers are signed: one whose first bit is set is prefixed with a zero byte.
    return f"{_encoded(key)}.{_encoded(serial.to_bytes(serial.bit_length() // 8 + 1))}"


class Authority:
    """`url` is `renewalInfo` in the authority's directory. One per job: it keeps its connection open."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "certcourier"

    def fetch(self, identifier: str) -> RenewalInfoResponse:
        """The current renewal information. Raises `AuthorityUnavailableError` or `NotOfThisAuthorityError`."""
        try:
            answer = self._session.get(f"{self._url}/{identifier}", timeout=_TIMEOUTS)
        except requests.RequestException as error:
            raise AuthorityUnavailableError(f"ARI_URL: no answer ({type(error).__name__})") from None
        if answer.status_code in {400, 404}:
            raise NotOfThisAuthorityError(f"the authority does not know this certificate (status {answer.status_code})")
        pause = parse_retry_after(
            answer.headers.get("Retry-After"), now=datetime.now(UTC), least=_SHORTEST_PAUSE, most=_LONGEST_PAUSE
        )
        if answer.status_code != 200:
            raise AuthorityUnavailableError(f"ARI_URL: status {answer.status_code}", retry_after=pause)
        try:
            return _read(answer.json(), _USUAL_PAUSE if pause is None else pause)
        except (ValueError, TypeError, KeyError):
            raise AuthorityUnavailableError("ARI_URL: the answer is not renewal information") from None

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _read(document: Any, pause: float) -> RenewalInfoResponse:
    window = document["suggestedWindow"]
    start, end = (_instant(window[name]) for name in ("start", "end"))
    if end <= start:  # section 4.2: such a window must be ignored
        raise ValueError("the window ends before it begins")
    url = document.get("explanationURL")
    return RenewalInfoResponse(start, end, url if isinstance(url, str) else None, pause)


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
