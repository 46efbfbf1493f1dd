"""Access to the pages: a session cookie, created from a token, and a secret in each form against forgery."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Response, g, redirect, request, url_for

from app.auth import sessions
from app.auth.scopes import AccessDeniedError, check_access
from app.auth.sessions import MissingReadScopeError, SignedIn
from app.auth.tokens import Client
from app.web.auth import client, count_failure, count_request
from app.web.context import services
from app.web.dashboard.blueprint import blueprint, message, render

_LONGEST_TOKEN = 200


def page[**P](*, scope: str = "read", by_domain: bool = False) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Require a session with this scope; anonymous visitors are redirected to sign in.

    A domain-restricted token is let in only where `by_domain` promises that the view honours its domains.
    """

    def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            signed_in = sessions.find_session(services().database, request.cookies.get(_cookie(), ""))
            if signed_in is None:
                return redirect(url_for("dashboard.sign_in", next=_wanted()), 303)
            g.signed_in, g.client = signed_in, signed_in.client
            refusal = _refusal(signed_in, scope, by_domain=by_domain)
            return view(*args, **kwargs) if refusal is None else refusal

        return guarded

    return decorate


@blueprint.get("/sign-in")
def sign_in() -> Response:
    """The form."""
    return _form(next=_safe(request.args.get("next", "")), error="")


@blueprint.post("/sign-in")
def begin_session() -> Any:
    """Exchange a token for a session. Failures are limited by address; a valid token is always accepted."""
    if _is_foreign():
        return _forged()
    token, wanted = request.form.get("token", ""), _safe(request.form.get("next", ""))
    try:
        session_id = (
            sessions.sign_in(services().settings, services().database, token) if len(token) <= _LONGEST_TOKEN else None
        )
    except MissingReadScopeError as error:
        reason = f"{error} Sign in with a token that has the `read` or `admin` scope."
        return _form(403, next=wanted, error=reason)
    if session_id is None:
        wait = count_failure()
        if wait:
            return _too_many(wait, "Too many attempts without a valid token from this address.")
        return _form(401, next=wanted, error="Invalid token (mistyped, revoked or expired).")
    answer = redirect(wanted or url_for("dashboard.overview"), 303)
    answer.set_cookie(
        _cookie(),
        session_id,
        max_age=int(services().settings.dashboard_session_minutes * 60),
        path="/",
        secure=_is_secure(),
        httponly=True,
        samesite="Strict",
    )
    return answer


@blueprint.post("/sign-out")
@page(by_domain=True)
def end_session() -> Any:
    """End the session on the server, not only in this browser."""
    sessions.sign_out(services().database, request.cookies.get(_cookie(), ""))
    answer = redirect(url_for("dashboard.sign_in"), 303)
    answer.delete_cookie(_cookie(), path="/", secure=_is_secure(), httponly=True, samesite="Strict")
    return answer


def _form(status: int = 200, **values: Any) -> Response:
    return render("sign_in.html", status, demo_token=_demo_token(), **values)


def _demo_token() -> Path | None:
    """The file in which `make run` stores a token, while DNSimple is simulated on this machine."""
    settings = services().settings
    file = settings.data_dir / "demo.token"
    simulated = urlsplit(settings.dnsimple_base_url).hostname in {"localhost", "127.0.0.1", "::1"}
    return file if simulated and file.is_file() else None


def _refusal(signed_in: SignedIn, scope: str, *, by_domain: bool) -> Response | None:
    who = signed_in.client
    wait = count_request(who)
    if wait:
        return _too_many(wait, "This token has reached its request limit for this minute.")
    if request.method == "POST" and (_is_foreign() or not signed_in.has_sent(request.form.get("form_secret", ""))):
        return _forged()
    try:
        check_access(who.scopes, who.domains, scope, supports_domains=by_domain)
    except AccessDeniedError as error:
        return message(403, error.title, f"Not allowed: {error}.")
    return None


def who() -> Client:
    """The client that is signed in."""
    return client()


def _forged() -> Response:
    detail = "The form was not sent from a page of this session. Nothing was changed; go back, reload and try again."
    return message(403, "Invalid form", detail)


def _too_many(wait: float, reason: str) -> Response:
    seconds = max(1, math.ceil(wait))
    detail = f"{reason} Wait {seconds} seconds."
    return message(429, "Too many requests", detail, headers={"Retry-After": str(seconds)})


def _is_foreign() -> bool:
    """Whether the browser reports that another site's page sent the form."""
    return request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}


def _is_secure() -> bool:
    return urlsplit(services().settings.public_url).scheme == "https"


def _cookie() -> str:
    """With the prefix, browsers accept it only from this host, for all its paths, and over TLS (RFC 6265bis)."""
    return "__Host-certcourier" if _is_secure() else "certcourier"


def _wanted() -> str:
    return request.full_path.removesuffix("?") if request.method == "GET" else ""


def _safe(path: str) -> str:
    """A path of the dashboard to go to after signing in, or nothing."""
    ours = path == "/dashboard" or path.startswith(("/dashboard/", "/dashboard?"))
    return path if ours and path.isprintable() and "\\" not in path else ""
