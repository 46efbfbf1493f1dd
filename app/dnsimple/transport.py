"""One call over HTTP: sent at most once, within a time limit, its response mapped to our errors.

The client library's own services keep every answer on a class that all threads share (contract, section 5, trap 1), so
only its low-level calls are used, which return the `requests.Response` of that call.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import Any

import requests
import structlog
from dnsimple import Client
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.exceptions import SSLError as TLSError

from app.dnsimple import errors
from app.dnsimple.budgeted_calls import Answer, BudgetedCalls, RateLimit
from app.retry_after import parse_retry_after

log = structlog.get_logger("certcourier.dnsimple")

LARGEST_BODY = 2 * 1024 * 1024
_CHUNK = 16 * 1024


class Deadline:
    """An instant of the monotonic clock, which also advances while a process is frozen."""

    def __init__(self, at: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at = at
        self._clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The instant that many seconds from now."""
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - self._clock())


@dataclass(frozen=True, slots=True)
class Call:
    """`path` with placeholders that `values` fill; `expected` is the one status of success.

    `query` may have `sort`, `page` and `per_page`.
    """

    method: str
    path: str
    values: dict[str, str | int]
    expected: int
    body: dict[str, Any] | None = None
    query: dict[str, Any] | None = None

    @property
    def only_asks(self) -> bool:
        """Whether sending it twice is harmless."""
        return self.method != "POST"


class _TimeoutAdapter(HTTPAdapter):
    """Sets the timeouts, which the library does not support otherwise."""

    def __init__(self, pool_size: int) -> None:
        self.local = threading.local()
        super().__init__(pool_connections=1, pool_maxsize=pool_size, max_retries=0, pool_block=False)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = self.local.timeout
        return super().send(request, *args, **kwargs)


class Transport:
    """Shared by all threads of a process: a client for each thread, one pool of connections for all. Survives forks."""

    def __init__(
        self,
        *,
        token: str,
        base_url: str,
        connect_timeout: float,
        read_timeout: float,
        pool_size: int,
        user_agent: str,
        ca_bundle: str | None,
    ) -> None:
        token = token.strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            # Checked here, since the header's own check would quote the token.
            raise ValueError("the DNSimple token must be printable ASCII without spaces")
        self._token = token
        self._base_url = base_url
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._pool_size = pool_size
        self._user_agent = user_agent
        self._ca_bundle = ca_bundle
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def __repr__(self) -> str:
        return f"<Transport to {self._base_url}>"

    def send(self, call: Call, deadline: Deadline | None, budgeted_calls: BudgetedCalls) -> Any:
        """The parsed JSON of a successful response, or None for 204. Raises the errors of `app.dnsimple.errors`."""
        limit = deadline or Deadline.after(self._connect_timeout + 2 * self._read_timeout)
        budgeted_calls.begin()
        started, status, headers, failure = time.monotonic(), None, CaseInsensitiveDict[str](), None
        try:
            response, body = self._exchange(call, limit)
            status, headers = response.status_code, response.headers
            return _interpret(call, response, body)
        except errors.DNSimpleError as error:
            failure = error
            raise
        finally:
            seconds = time.monotonic() - started
            known = (_rate_limit(headers), _request_id(headers), _date(headers))
            answer = Answer(call.method, call.path, status, seconds, *known)
            log.debug("dnsimple call", method=call.method, path=call.path, status=status)
            budgeted_calls.end(answer, failure)

    def _exchange(self, call: Call, limit: Deadline) -> tuple[requests.Response, bytes | None]:
        """The response, and its body or None if that was cut off or too large."""
        left = limit.remaining()
        if left <= 0:
            raise errors.UnreachableError("not sent to DNSimple: the deadline had passed")
        self._adapter.local.timeout = (min(self._connect_timeout, left), min(self._read_timeout, left))
        try:
            response = self._perform(call)
        except requests.ConnectTimeout:
            raise errors.UnreachableError("DNSimple did not accept a connection in time") from None
        except requests.TooManyRedirects:
            raise _lost(call, "DNSimple sent a redirect, which is not followed") from None
        except (requests.RequestException, Urllib3Error) as error:
            if _never_left(error):
                raise errors.UnreachableError(f"no connection to DNSimple ({type(error).__name__})") from None
            raise _lost(call, f"no response from DNSimple ({type(error).__name__})") from None
        with response:
            return response, _read(response, limit)

    def _perform(self, call: Call) -> requests.Response:
        client, path = self._client(), call.path.format(**call.values)
        if call.method == "GET":
            # By name: the library's own empty `page` overrides one in `params`.
            return client.get(path, **(call.query or {}))  # type: ignore[no-any-return]
        if call.method == "DELETE":
            return client.delete(path)  # type: ignore[no-any-return]
        # Built here: the library drops false and empty values, and would order `www` instead of the apex.
        return client.post(path, data=json.dumps(call.body) if call.body is not None else None)  # type: ignore[no-any-return]

    def _client(self) -> Any:
        client = getattr(self._local, "client", None)
        if client is None:
            client = Client(access_token=self._token, base_url=self._base_url, user_agent=self._user_agent)
            client.session.mount("https://", self._adapter)
            client.session.mount("http://", self._adapter)
            client.session.stream = True  # the body is read below, within the deadline
            client.session.max_redirects = 0
            # No proxies or credentials from the environment: this is the only host to be called.
            client.session.trust_env = False
            client.session.verify = self._ca_bundle or True
            self._local.client = client
        return client

    def _begin(self) -> None:
        """Also called after a fork: two processes must never share a connection."""
        self._local = threading.local()
        self._adapter = _TimeoutAdapter(self._pool_size)


def _read(response: requests.Response, limit: Deadline) -> bytes | None:
    """The whole body, or None if it exceeds the deadline, breaks off or is too large."""
    parts, size = [], 0
    try:
        # read1 returns the bytes received so far; read would wait for a whole chunk.
        while part := response.raw.read1(_CHUNK, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > LARGEST_BODY or limit.remaining() <= 0:
                return None
    except (OSError, Urllib3Error):
        return None
    return b"".join(parts)


def _never_left(error: Exception) -> bool:
    """Whether the connection failed: refused, no route, unknown host, untrusted certificate."""
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    if isinstance(reason, TLSError):
        return any(isinstance(detail, ssl.SSLCertVerificationError) for detail in reason.args)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _lost(call: Call, message: str, **known: Any) -> errors.DNSimpleError:
    if call.only_asks:
        return errors.UnreachableError(message, **known)
    return errors.LostAnswerError(f"{message}; it is unknown whether the request took effect", **known)


def _interpret(call: Call, response: requests.Response, body: bytes | None) -> Any:
    status, request_id = response.status_code, _request_id(response.headers)
    document = _parse(body)
    if status == call.expected:
        if status == 204:
            return None
        if not isinstance(document, dict) or "data" not in document:
            raise _faulty(call, "the response is not the expected JSON", status, request_id)
        return document
    message = _message(document)
    if 400 <= status < 500:
        raise _refusal(status, message, document, response.headers, request_id)
    raise _faulty(call, message or "no usable response", status, request_id)


def _faulty(call: Call, message: str, status: int, request_id: str | None) -> errors.DNSimpleError:
    if call.only_asks:
        return errors.ServerFaultError(message, status=status, request_id=request_id)
    return _lost(call, message, status=status, request_id=request_id)


def _parse(body: bytes | None) -> Any:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None


def _message(document: Any) -> str:
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else ""


_BY_STATUS: dict[int, type[errors.DNSimpleError]] = {
    401: errors.AuthenticationError,
    402: errors.PaymentRequiredError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    412: errors.PlanLimitError,
    428: errors.NotIssuedYetError,
}


def _refusal(status: int, message: str, document: Any, headers: Any, request_id: str | None) -> errors.DNSimpleError:
    message = message or responses.get(status, "refused")
    if status == 429:
        remaining = _whole(headers.get("x-ratelimit-remaining"))
        return errors.RateLimitedError(
            message,
            request_id=request_id,
            retry_after=_retry_after(headers, remaining),
            # An endpoint's own limit answers while the account still has calls left (contract, section 4).
            account_wide=not remaining and not message.startswith("endpoint "),
        )
    known = _BY_STATUS.get(status)
    if known is not None:
        return known(message, status=status, request_id=request_id)
    return errors.RefusedError(message, status=status, request_id=request_id, field_errors=_field_errors(document))


def _field_errors(document: Any) -> dict[str, list[str]]:
    """Texts by field; DNSimple sends lists, single texts and nested lists (contract, section 1.3)."""
    found = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        return {}
    return {
        str(field): [str(texts)] if isinstance(texts, str) else [str(text) for text in texts or []]
        for field, texts in found.items()
        if isinstance(texts, str | list)
    }


def _retry_after(headers: Any, remaining: int | None) -> float | None:
    """In seconds: the header, otherwise until the reset if nothing remains (contract, section 4).

    Dates are compared with DNSimple's clock, since ours may be wrong.
    """
    seconds = parse_retry_after(headers.get("retry-after"), now=datetime.fromtimestamp(_sent_at(headers), UTC))
    if seconds is not None:
        return seconds
    reset = _whole(headers.get("x-ratelimit-reset"))
    return max(0.0, reset - _sent_at(headers)) if remaining == 0 and reset else None


def _rate_limit(headers: Any) -> RateLimit | None:
    limit, remaining, reset = (_whole(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "reset"))
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimit(limit, remaining, reset - _sent_at(headers))


def _sent_at(headers: Any) -> float:
    """DNSimple's time of the response, in seconds since 1970; ours if the header is missing."""
    date = _date(headers)
    return time.time() if date is None else date


def _date(headers: Any) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return None


def _whole(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _request_id(headers: Any) -> str | None:
    given = headers.get("x-request-id")
    return given[:64] if isinstance(given, str) and given.isprintable() else None
