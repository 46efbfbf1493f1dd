"""Security of every request and response: accepted hosts, and headers that restrict browsers."""

from __future__ import annotations

from urllib.parse import urlsplit

import structlog
from flask import Flask, Response, abort, request

from app.web.problem_details import problem
from app.web.proxies import TrustedProxyMiddleware
from config import Settings

log = structlog.get_logger("certcourier.web")

API_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# The API reference: one style sheet of this host, no script and no inline code.
PAGE_POLICY = f"{API_POLICY}; style-src 'self'"
# The dashboard: forms and one script of this host, no inline code.
DASHBOARD_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'"
)
_HEADERS = {
    "Content-Security-Policy": API_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "accelerometer=(), camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HTTPS_FOR_A_YEAR = "max-age=31536000"
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104, compared, not bound
_ANY_HOST = "/healthz"


def register(app: Flask, settings: Settings) -> None:
    """Call before registering blueprints: their routes then get no automatic OPTIONS, which would need no token."""
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # //orders would be answered with a redirect
    headers = dict(_HEADERS)
    if urlsplit(settings.public_url).scheme == "https":
        headers["Strict-Transport-Security"] = _HTTPS_FOR_A_YEAR
    known = known_hosts(settings)

    @app.before_request
    def _check_request() -> Response | None:
        if request.path != _ANY_HOST and host_name(request.headers.get("Host", "")) not in known:
            log.warning("host refused", host=request.headers.get("Host", "")[:253])
            detail = "Host: requests for this host name are not accepted; to accept them, add it to ALLOWED_HOSTS"
            return problem(400, "unknown-host", "Unknown host name", detail)
        if not request.path.isprintable():
            abort(404)  # no route has control characters, and PostgreSQL rejects NUL
        return None

    @app.after_request
    def _add_headers(response: Response) -> Response:
        own = {name.lower() for name in response.headers.keys()}  # noqa: SIM118, of pairs
        response.headers.extend((name, value) for name, value in headers.items() if name.lower() not in own)
        return response

    if settings.trusted_proxies:
        app.wsgi_app = TrustedProxyMiddleware(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]


def known_hosts(settings: Settings) -> frozenset[str]:
    """The host names that requests may be addressed to, as `host_name` normalises them."""
    names = {*settings.allowed_hosts, urlsplit(settings.public_url).netloc, *_LOOPBACK}
    if settings.host not in _EVERYWHERE:
        names.add(f"[{settings.host}]" if ":" in settings.host else settings.host)
    return frozenset(map(host_name, names))


def host_name(host: str) -> str:
    """A Host header without its port and a final dot, in lower case; IPv6 addresses keep their brackets."""
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")
