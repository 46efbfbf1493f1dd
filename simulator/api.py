"""Shared parts of the simulated API v2 (contract, section 1): errors, authentication, pagination."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from flask import Blueprint, Flask, Response, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from simulator.catalogue import Dice
from simulator.clock import Clock
from simulator.faults import Faults
from simulator.issuing import Issuer
from simulator.quota import Quota
from simulator.settings import Settings
from simulator.state import Domain, State
from simulator.webhooks import Sender

PREFIX = "/v2"
_REMEMBERED_CALLS = 200_000
_HOST = re.compile(r"(?=.{3,253}\Z)(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)+(?!-)[a-z0-9-]{1,63}(?<!-)")
UNCOUNTED = "X-Simulator-Uncounted"


@dataclass(slots=True)
class World:
    """The parts of a running simulator."""

    settings: Settings
    clock: Clock
    state: State
    quota: Quota
    dice: Dice
    faults: Faults
    sender: Sender
    issuer: Issuer
    windows: dict[int | None, dict[str, Any]] = field(default_factory=dict)
    calls: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_CALLS))
    lock: threading.Lock = field(default_factory=threading.Lock)


class Refusal(Exception):  # noqa: N818, an HTTP answer
    """An error answer: `{"message"}`, some with `{"errors"}`."""

    def __init__(self, status: int, message: str, errors: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"message": message} | ({"errors": errors} if errors else {})


def world() -> World:
    """The simulator that handles the current request."""
    found: World = current_app.extensions["simulator"]
    return found


def guard(app: Flask, api: Blueprint) -> None:
    """Count, limit and authenticate every call, inject faults, and format errors as DNSimple does."""
    api.before_request(_before)
    api.after_request(_after)
    app.register_error_handler(Refusal, lambda error: (jsonify(error.document), error.status))
    app.register_error_handler(HTTPException, _http_error)


def find_domain(reference: str) -> Domain:
    """Look up a domain by name or ID. With `any_domain`, an unknown name is added to the account."""
    state, settings = world().state, world().settings
    with state.lock:
        if reference.isdigit():
            domain = state.domains.get(int(reference))
        else:
            domain = state.domains.get(state.domain_ids.get(reference.lower(), 0))
            may_be_made = settings.any_domain and reference not in settings.unknown_domains
            if domain is None and may_be_made and _HOST.fullmatch(reference):
                domain = add_domain(reference)
    if domain is None:
        raise Refusal(404, f"Domain `{reference}` not found")
    return domain


def add_domain(name: str, *, delegated: bool = True) -> Domain:
    """Add a domain to the account."""
    state = world().state
    with state.lock:
        domain = Domain(state.new_id("domain"), name.lower(), world().clock.now(), delegated)
        state.save(domain)
    return domain


def body() -> dict[str, Any]:
    """The JSON object of a request; an empty body is an empty object, as the clients send for `issue`."""
    if request.mimetype != "application/json":
        raise Refusal(400, "Content-Type must be application/json")
    if not request.get_data():
        return {}
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise Refusal(400, "Problems parsing JSON")
    return document


def paginated(items: list[Any]) -> Response:
    """One page of documents with its `pagination`; `per_page` above 100 is clamped."""
    page = max(1, request.args.get("page", 1, type=int))
    per_page = min(100, max(1, request.args.get("per_page", 30, type=int)))
    total = len(items)
    pagination = {
        "current_page": page,
        "per_page": per_page,
        "total_entries": total,
        "total_pages": -(-total // per_page),
    }
    return jsonify({"data": items[(page - 1) * per_page : page * per_page], "pagination": pagination})


def sort_by(default: str, *fields: str) -> tuple[str, bool]:
    """The field to sort by and whether downwards, from `sort=id:desc`."""
    name, _, direction = request.args.get("sort", default).partition(":")
    if name not in fields or direction not in {"", "asc", "desc"}:
        raise Refusal(400, f"Invalid sort: {name}")
    return name, direction == "desc"


def _before() -> Response | None:
    g.started = time.time()
    settings = world().settings
    g.template = _template()
    account = (request.view_args or {}).pop("account", str(settings.account))
    if request.headers.get(UNCOUNTED) is None:
        g.allowance = world().quota.spend()
        world().faults.wait(settings.latency)
        _check_access(settings, account)
        instead = _disturb("before", None)
        g.replaced = instead is not None
        return instead
    return None


def _disturb(when: Literal["before", "after"], answer: Response | None) -> Response | None:
    fault = world().faults.find(when, request.method, g.template, time.time())
    if fault is None:
        return answer
    g.fault = fault.name
    return world().faults.apply(fault, request.environ, answer)


def _check_access(settings: Settings, account: str) -> None:
    if not g.allowance.allowed:
        raise Refusal(429, "quota exceeded")
    if request.headers.get("Authorization") != f"Bearer {settings.token}":
        raise Refusal(401, "Authentication failed")
    if account != str(settings.account):
        raise Refusal(404, f"Account `{account}` not found")


def _after(response: Response) -> Response:
    if response.mimetype == "application/json":
        response.headers["Content-Type"] = "application/json; charset=utf-8"
    response.headers["X-Request-Id"] = str(uuid.uuid4())
    allowance = g.get("allowance")
    if allowance is None:
        return response
    for name, value in allowance.headers().items():
        response.headers.setdefault(name, value)
    response.headers["Cache-Control"] = (
        "max-age=0, private, must-revalidate" if response.status_code in {200, 201} else "no-cache"
    )
    final = response if g.get("replaced") else _disturb("after", response) or response
    call = {
        "method": request.method,
        "path_template": g.template,
        "path": request.path,
        "status": response.status_code,
        "at": g.started,
        "seconds": time.time() - g.started,
        "fault": g.get("fault"),
    }
    with world().lock:
        world().calls.append(call)
    return final


def _template() -> str:
    rule = request.url_rule.rule if request.url_rule else request.path
    return rule.removeprefix(PREFIX).replace("<", "{").replace(">", "}")


def _http_error(error: HTTPException) -> Response | tuple[Response, int]:
    if isinstance(error, MethodNotAllowed):  # an empty body without a type (contract, section 1.3)
        answer = Response(status=405, headers={"Allow": ", ".join(error.valid_methods or ())})
        del answer.headers["Content-Type"]
        return answer
    return jsonify({"message": "Not Found" if error.code == 404 else error.description}), error.code or 500


def number(reference: str, kind: str) -> int:
    """An ID in a path; anything but a number is not found."""
    if not (reference.isascii() and reference.isdigit()):
        raise Refusal(404, f"{kind} `{reference}` not found")
    return int(reference)
