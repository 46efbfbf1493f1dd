"""Authentication of API requests by bearer tokens with scopes (RFC 6750), and their rate limits.

Failed attempts are counted per address, and too many are answered 429. A valid token is accepted nevertheless: 256
random bits cannot be guessed, and an attacker must not lock out clients that share an address or a proxy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from flask import Response, g, request

from app.auth.scopes import AccessDeniedError, check_access
from app.auth.tokens import Client, authenticate
from app.operations.retention import FAILURES
from app.web.context import current, services
from app.web.problem_details import problem
from app.web.proxies import client_address


def requires[**P](
    scope: str, *, browser: bool = False, by_domain: bool = False
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Require a token with this scope.

    `browser` accepts the token as the password of Basic authentication too. A domain-restricted token is accepted only
    with `by_domain`, by which the view promises to apply `client().domains`.
    """

    def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = _token(browser=browser)
            client = authenticate(services().database, token) if token else None
            refusal = _unauthorized(browser=browser) if client is None else _refusal(client, scope, by_domain=by_domain)
            if refusal is not None:
                return refusal
            g.client = client
            return view(*args, **kwargs)

        return guarded

    return decorate


def client() -> Client:
    """The client that this request was authenticated as."""
    found: Client = g.client
    return found


def count_failure() -> float:
    """Count a request without a valid token: 0, or the seconds that this address has to wait."""
    return current().limits.take(FAILURES + _network(), services().settings.failed_logins_per_minute)


def count_request(client: Client) -> float:
    """Count a request of the client: 0, or the seconds that it has to wait."""
    return current().limits.take(f"token:{client.id}", services().settings.token_requests_per_minute)


def _token(*, browser: bool) -> str | None:
    given = request.authorization
    if given is None:
        return None
    if given.type == "bearer":
        return given.token
    return given.password if browser and given.type == "basic" else None


def _refusal(client: Client, scope: str, *, by_domain: bool) -> Response | None:
    wait = count_request(client)
    if wait:
        limit = services().settings.token_requests_per_minute
        return _too_many(wait, f"this token is limited to {limit} requests per minute (TOKEN_REQUESTS_PER_MINUTE)")
    try:
        check_access(client.scopes, client.domains, scope, supports_domains=by_domain)
    except AccessDeniedError as error:
        return problem(403, error.kind, error.title, str(error))
    return None


def _unauthorized(*, browser: bool) -> Response:
    wait = count_failure()
    if wait:
        return _too_many(wait, "too many requests without a valid token from this address")
    detail = "send `Authorization: Bearer TOKEN` with a token from `certcourier tokens create`"
    challenge = {"WWW-Authenticate": 'Bearer realm="certcourier"'}
    answer = problem(401, "unauthorized", "A valid token is required", detail, headers=challenge)
    if browser:  # a separate header: Chromium reads only the first scheme of each
        answer.headers.add("WWW-Authenticate", 'Basic realm="certcourier"')
    return answer


def _too_many(wait: float, reason: str) -> Response:
    headers = {"Retry-After": str(max(1, math.ceil(wait)))}
    return problem(
        429,
        "too-many-requests",
        "Too many requests",
        f"{reason}; retry after the seconds in Retry-After",
        headers=headers,
    )


def _network() -> str:
    """The network that failures are counted for: an IPv4 address, or an IPv6 /64, usually one customer."""
    address = client_address(request)
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address or "unknown"
