"""POST /issue_certificate, also at the path that DNSimple's tutorial uses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Blueprint, Response, abort, jsonify, request, url_for
from sqlalchemy.exc import SQLAlchemyError

from app.auth.scopes import check_order
from app.certificates.queries import find_order, wait_until_issued
from app.dnsimple.adapter import Deadline
from app.domain_names import InvalidFieldError
from app.orders.idempotency import StoredAnswer, store_answer
from app.orders.issuance import advance_inline
from app.orders.placement import PlacedOrder, submit_order
from app.web.api.schemas import IssueRequest, order_document
from app.web.auth import client, requires
from app.web.context import current, services
from app.web.problem_details import problem, problem_document, render

blueprint = Blueprint("issue", __name__)
log = structlog.get_logger("certcourier.web")

MAX_WAIT_SECONDS = 60
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Preference:
    """The request's Prefer header (RFC 7240). `wait` is in seconds."""

    respond_async: bool = False
    wait: int | None = None


@blueprint.post("/issue_certificate")
@blueprint.post("/dnsimple/issue_certificate")
@requires("issue", by_domain=True)
def issue_certificate() -> Response:
    """Order a certificate: 202 with the order's current state, or a problem document if it is refused."""
    order = IssueRequest.model_validate(_fields()).order()
    check_order(client().domains, order.domain)
    key, prefer = _idempotency_key(), _preference()
    deadline = Deadline.after(services().settings.order_wait_seconds)
    inline = not prefer.respond_async and current().waiting.acquire(blocking=False)
    try:
        hold_seconds = deadline.remaining() + services().queue.lease_seconds if inline else None
        placed = submit_order(
            services().database,
            services().queue,
            services().account_id,
            order,
            client_id=client().id,
            idempotency_key=key,
            hold_seconds=hold_seconds,
            actor=client().actor,
        )
        if isinstance(placed, StoredAnswer):
            return _replayed(placed)
        return _advance(placed, key, prefer, deadline, inline=bool(inline))
    finally:
        if inline:
            current().waiting.release()


def _advance(placed: PlacedOrder, key: str | None, prefer: Preference, deadline: Deadline, *, inline: bool) -> Response:
    """The order is stored by now, and every response has to reflect that."""
    try:
        if placed.claim is not None:
            advance_inline(services(), placed.claim, deadline)
        if inline and prefer.wait:
            wait_until_issued(services().database, placed.order_id, Deadline.after(prefer.wait))
        return _answer(placed, key, _applied(prefer, inline=inline))
    except SQLAlchemyError as error:
        log.error("database error", reason=type(error).__name__, order_id=placed.order_id)  # noqa: TRY400
        return problem(
            503,
            "service-unavailable",
            "The database is unavailable",
            "The order is stored and continues. Check its state again later.",
            headers={"Retry-After": "5", "Location": url_for("certificates.show_order", order_id=placed.order_id)},
            order_id=placed.order_id,
        )


def _fields() -> dict[str, Any]:
    if request.mimetype == "application/json":
        document = _json(request.get_data())
        if not isinstance(document, dict):
            abort(400, "the body must be a JSON object with the field `domain`")
        return document
    if request.mimetype not in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        abort(415, "content type must be application/json, application/x-www-form-urlencoded or multipart/form-data")
    fields: dict[str, Any] = {}
    for name, values in request.form.lists():
        if name.lstrip().startswith("{"):  # curl's content type for `-d` without -H
            abort(415, "the body looks like JSON but is sent as a form: set Content-Type: application/json")
        if len(values) > 1 and name not in {"san", "alternate_names"}:
            raise InvalidFieldError(name, "must not be given more than once")
        fields[name] = ",".join(values)
    for name in request.files:
        raise InvalidFieldError(name, "must be a text field, not a file")
    return fields


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        abort(400, f"the body is not valid JSON: {error.msg}, line {error.lineno}, column {error.colno}")
    except UnicodeDecodeError:
        abort(400, "the body is not valid JSON: it is not UTF-8")
    except RecursionError:
        abort(400, "the body is nested too deeply")


def _idempotency_key() -> str | None:
    """The idempotency key, with or without quotes (a structured header string)."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not _KEY.fullmatch(key):
        raise InvalidFieldError("Idempotency-Key", "must be 1 to 255 printable ASCII characters without spaces")
    return key


def _preference() -> Preference:
    """The preferences that are understood; RFC 7240 requires all others to be ignored."""
    wait, respond_async = None, False
    for part in ",".join(request.headers.getlist("Prefer")).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "respond-async":
            respond_async = True
        elif name.strip().lower() == "wait" and value.isascii() and value.isdigit() and wait is None:
            wait = min(int(value[:9]), MAX_WAIT_SECONDS)
    return Preference(respond_async, wait)


def _applied(prefer: Preference, *, inline: bool) -> str | None:
    if prefer.respond_async:
        return "respond-async"
    return f"wait={prefer.wait}" if prefer.wait and inline else None


def _replayed(stored: StoredAnswer) -> Response:
    answer = jsonify(stored.body) if stored.status == 202 else render(stored.body)
    answer.status_code = stored.status
    answer.headers["Location"] = url_for("certificates.show_order", order_id=stored.order_id)
    answer.headers["Idempotency-Replayed"] = "true"
    return answer


def _answer(placed: PlacedOrder, key: str | None, applied: str | None) -> Response:
    found = find_order(services().database, placed.order_id)
    assert found is not None  # noqa: S101, committed above, and orders are not deleted
    order, certificate, _ = found
    if order.failure is not None:
        failure = dict(order.failure)
        kind, title, detail = failure.pop("type"), failure.pop("title"), failure.pop("detail")
        body = problem_document(400, kind, title, detail, order_id=order.id, **failure)
        answer = render(body)
    else:
        body = {"data": order_document(order, certificate)}
        answer = jsonify(body)
        answer.status_code = 202
    if key is not None:
        store_answer(services().database, client().id, key, status=answer.status_code, body=body)
    answer.headers["Location"] = url_for("certificates.show_order", order_id=order.id)
    if applied:
        answer.headers["Preference-Applied"] = applied
    return answer
