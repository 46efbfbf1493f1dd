"""Who may ask: bearer tokens with scopes (RFC 6750), and how often.

Failed attempts are counted by address and answered 429 when there are too many. A valid token is let in all the same:
256 random bits are not guessed, and a stranger must not shut out the clients that share his address or his proxy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from flask import Response, g, request

from app.auth.tokens import Client, authenticate
from app.operations.retention import FAILURES
from app.web.context import current, services
from app.web.problem_details import problem
from app.web.proxies import client_address


def requires[**P](
    scope: str, *, browser: bool = False, by_domain: bool = False
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Let only clients with this scope in.

    `browser` lets the token be a Basic password too, for pages. A token that is limited to domains comes in only where
    `by_domain` promises that the view looks at `client().domains`.
    """

    def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = _token(browser=browser)
            client = authenticate(services(), token) if token else None
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
    """Note that somebody came without a valid token: 0, or the seconds that this address has to wait."""
    return current().limits.take(FAILURES + _network(), services().settings.failed_logins_per_minute)


def _token(*, browser: bool) -> str | None:
    given = request.authorization
    if given is None:
        return None
    if given.type == "bearer":
        return given.token
    return given.password if browser and given.type == "basic" else None


def _refusal(client: Client, scope: str, *, by_domain: bool) -> Response | None:
    wait = current().limits.take(f"token:{client.id}", services().settings.token_requests_per_minute)
    if wait:
        limit = services().settings.token_requests_per_minute
        return _too_many(wait, f"this token may make {limit} requests a minute (TOKEN_REQUESTS_PER_MINUTE)")
    if not client.may(scope):
        detail = f"this token has no scope {scope!r}; make one with `flask tokens create NAME --scope {scope}`"
        return problem(403, "scope-missing", "The token may not do this", detail)
    if client.domains is not None and not by_domain:
        detail = "this token is limited to some domains, and this shows more; make one without `--domains`"
        return problem(403, "domain-limited", "The token may not do this", detail)
    return None


def _unauthorized(*, browser: bool) -> Response:
    wait = count_failure()
    if wait:
        return _too_many(wait, "too many requests without a valid token came from this address")
    detail = "send `Authorization: Bearer TOKEN` with a token made by `flask tokens create`"
    challenge = {"WWW-Authenticate": 'Bearer realm="certcourier"'}
    answer = problem(401, "unauthorized", "A valid token is needed", detail, headers=challenge)
    if browser:  # in a header of its own: Chromium looks at the first scheme of each and asks nobody for another
        answer.headers.add("WWW-Authenticate", 'Basic realm="certcourier"')
    return answer


def _too_many(wait: float, reason: str) -> Response:
    headers = {"Retry-After": str(max(1, math.ceil(wait)))}
    return problem(429, "too-many-requests", "Too many requests", f"{reason}; wait for Retry-After", headers=headers)


def _network() -> str:
    """Whom failures are counted for: an IPv4 address, or an IPv6 /64, which is what one customer gets."""
    address = client_address(request)
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address or "unknown"
