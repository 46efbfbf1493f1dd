"""Who may ask: bearer tokens with scopes (RFC 6750)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flask import Response, g, request

from app.certificates.tokens import Client, authenticate
from app.web.context import services
from app.web.errors import problem


def requires[**P](scope: str, *, browser: bool = False) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Let only clients with this scope in; `browser` lets the token be a Basic password too, for pages."""

    def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = _token(browser=browser)
            client = authenticate(services(), token) if token else None
            if client is None:
                return _unauthorized(browser=browser)
            if scope not in client.scopes:
                detail = f"this token has no scope {scope!r}; make one with `flask tokens create --scope {scope}`"
                return problem(403, "scope-missing", "The token may not do this", detail)
            g.client = client
            return view(*args, **kwargs)

        return guarded

    return decorate


def client() -> Client:
    """The client that this request was authenticated as."""
    found: Client = g.client
    return found


def _token(*, browser: bool) -> str | None:
    given = request.authorization
    if given is None:
        return None
    if given.type == "bearer":
        return given.token
    return given.password if browser and given.type == "basic" else None


def _unauthorized(*, browser: bool) -> Response:
    detail = "send `Authorization: Bearer TOKEN` with a token made by `flask tokens create`"
    challenge = 'Bearer realm="certcourier"' + (', Basic realm="certcourier"' if browser else "")
    return problem(401, "unauthorized", "A valid token is needed", detail, headers={"WWW-Authenticate": challenge})
