"""One log line per request, with the route instead of the path: a path can hold the webhook's secret."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from app.web.context import services
from app.web.proxies import is_from_proxy

log = structlog.get_logger("certcourier.web")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = {"/healthz", "/readyz", "/metrics"}


def register(app: Flask) -> None:
    """Assign each request an ID (a trusted proxy's, if valid) and log its completion."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    is_trusted = _REQUEST_ID.fullmatch(given) and is_from_proxy(request)
    g.request_id = given if is_trusted else str(uuid.uuid4())
    g.started = time.monotonic()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    rule = request.url_rule.rule if request.url_rule else "(unknown route)"
    seconds = time.monotonic() - g.started
    services().metrics.observe_request(request.method, rule, response.status_code, seconds)
    log.log(
        10 if rule in _QUIET or g.get("logged") else 20,
        "request",
        method=request.method,
        route=rule,
        status=response.status_code,
        milliseconds=round(seconds * 1000, 1),
    )
    return response
