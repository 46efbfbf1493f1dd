"""GET /openapi.json, made from the schemas, and GET /docs, a page of it that needs no other host and no script."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, redirect, render_template, url_for
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.wrappers import Response as BaseResponse

from app import __version__
from app.db.models import OrderState
from app.web.api import schemas
from app.web.api.certificates import ListQuery
from app.web.auth import requires
from app.web.problem_details import PROBLEM_JSON
from app.web.security_headers import PAGE_POLICY

blueprint = Blueprint("docs", __name__, template_folder="templates")
_STYLE = Path(__file__).parents[1] / "static" / "docs.css"

_REF = "#/components/schemas/{model}"
_MODELS: list[type[BaseModel]] = [
    schemas.OrderDocument,
    schemas.OrderDetail,
    schemas.CertificateDocument,
    schemas.CertificateDetail,
    schemas.AlertDocument,
]


@blueprint.get("/")
def root() -> BaseResponse:
    """Whoever opens the bare address in a browser is sent to the dashboard."""
    return redirect(url_for("dashboard.overview"), 303)


@blueprint.get("/openapi.json")
@requires("read", browser=True, by_domain=True)
def openapi() -> Response:
    """The OpenAPI 3.1 document."""
    return jsonify(openapi_document())


@blueprint.get("/docs")
@requires("read", browser=True, by_domain=True)
def page() -> Response:
    """The same for people."""
    answer = Response(render_template("docs.html", api=openapi_document(), resolve=_resolve))
    answer.headers["Content-Security-Policy"] = PAGE_POLICY
    return answer


@blueprint.get("/docs.css")
@requires("read", browser=True, by_domain=True)
def style() -> Response:
    """The page's style; a file, so that the page needs no inline code."""
    return Response(_STYLE.read_text(), content_type="text/css; charset=utf-8")


@functools.cache
def openapi_document() -> dict[str, Any]:
    """All endpoints, their fields, answers and errors."""
    _, definitions = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REF)
    _, requests = models_json_schema([(schemas.IssueRequest, "validation")], by_alias=False, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Certcourier",
            "version": __version__,
            "description": "Orders Let's Encrypt certificates through DNSimple and gets them served.",
        },
        "security": [{"token": []}],
        "paths": {
            "/issue_certificate": {"post": _issue("issueCertificate")},
            "/dnsimple/issue_certificate": {"post": _issue("issueCertificateAsInTheTutorial")},
            "/orders": {
                "get": _list("listOrders", "The orders, newest first", "OrderDocument", states=tuple(OrderState))
            },
            "/orders/{order_id}": {"get": _one("showOrder", "order_id", "string", "One order", "OrderDetail")},
            "/certificates": {
                "get": _list("listCertificates", "The certificates, newest first", "CertificateDocument")
            },
            "/certificates/{certificate_id}": {
                "get": _one("showCertificate", "certificate_id", "integer", "One certificate", "CertificateDetail")
            },
            "/alerts": {"get": _alerts()},
            "/dnsimple/events/{secret}": {"post": _event()},
            "/healthz": {"get": _health("healthz", "Whether this process answers", {"200": _status("Yes.")})},
            "/readyz": {"get": _health("readyz", "Whether orders and events will be worked on", _READY)},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _document("openapi", "This document", "application/json")},
            "/docs": {"get": _document("docs", "This document as a page", "text/html")},
            "/docs.css": {"get": _document("docsStyle", "That page's style", "text/css")},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": definitions.get("$defs", {}) | requests.get("$defs", {}) | {"Problem": _PROBLEM},
        },
    }


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457, with the tutorial's `error` as well.",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        "type": {"type": "string", "description": "A URN that never changes: urn:certcourier:problem:..."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong and what to do."},
        "errors": {
            "type": "array",
            "description": "For each wrong field: `field` and `message`.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "order_id": {"type": "string", "description": "The order that was kept as failed."},
        "dnsimple": {"type": "object", "description": "What DNSimple said: status, message, request_id."},
        "error": {"type": "object", "properties": {"message": {"type": "string"}}},
    },
}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(model=name)}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _data(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": _object(data=schema, **more)}}


def _problems(*statuses: tuple[str, str]) -> dict[str, Any]:
    """What every operation can answer besides; a description of one's own wins."""
    known = dict((_HOST, _AWAY)) | dict(statuses)
    return {status: _problem(status, known[status]) for status in sorted(known)}


def _problem(status: str, description: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description, "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}
    if status in {"429", "503"}:
        answer["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    if status == "401":
        answer["headers"] = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}}
    return answer


_HOST = ("400", "The request is addressed to a host that is not ours.")
_AWAY = ("503", "The database is not available; nothing was done. Try again after Retry-After seconds.")
_BAD = ("400", "A field or parameter cannot be accepted; `errors` names it. Or the host is not ours.")
_CLIENT = (
    ("401", "No valid token."),
    ("403", "The token has not the scope, or is limited to other domains."),
    ("429", "The token's requests of this minute are used up, or too many without a valid token came from here."),
)


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _issue(operation: str) -> dict[str, Any]:
    body = {"schema": _ref("IssueRequest")}
    return {
        "operationId": operation,
        "summary": "Order a certificate",
        "description": "The order is on record before DNSimple is asked, and goes on whatever happens to this request.",
        "parameters": [
            _header("Idempotency-Key", "The same key with the same order gets the same answer (for 24 hours)."),
            _header("Prefer", "`respond-async`: answer at once. `wait=N`: wait up to N (60) seconds for `issued`."),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": body,
                "application/x-www-form-urlencoded": body,
                "multipart/form-data": body,
            },
        },
        "responses": {
            "202": {
                "description": "On record, and usually requested at DNSimple already.",
                "headers": {
                    "Location": {
                        "description": "Where the order can be watched.",
                        "schema": {"type": "string"},
                    }
                },
                "content": _data(_ref("OrderDocument")),
            },
            **_problems(
                (
                    "400",
                    "Malformed (`errors` names the field) or refused by DNSimple (`order_id`, `dnsimple`).",
                ),
                *_CLIENT,
                ("409", "The first request with this Idempotency-Key is still being worked on."),
                ("413", "The body is too large."),
                ("415", "The body is of an unknown type."),
                ("422", "The Idempotency-Key came with another request before."),
            ),
        },
    }


def _list(operation: str, summary: str, model: str, *, states: tuple[str, ...] = ()) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "description": field.get("description", ""), "schema": _plain(field)}
        for name, field in ListQuery.model_json_schema()["properties"].items()
    ]
    if states:
        state = next(one for one in parameters if one["name"] == "state")
        state["schema"] = {"type": "string", "enum": list(states)}
    pagination = {
        "type": "object",
        "properties": {"limit": {"type": "integer"}, "next_cursor": {"type": ["string", "null"]}},
    }
    content = _data({"type": "array", "items": _ref(model)}, pagination=pagination)
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "One page; `Link: rel=next` leads to the next.", "content": content},
            **_problems(_BAD, *_CLIENT),
        },
    }


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query parameter, which is never null: it is left out instead."""
    first: dict[str, Any] = field.get("anyOf", [field])[0]
    return {name: value for name, value in first.items() if name not in {"description", "title"}}


def _one(operation: str, parameter: str, kind: str, summary: str, model: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": [{"name": parameter, "in": "path", "required": True, "schema": {"type": kind}}],
        "responses": {
            "200": {"description": "With its story and deliveries.", "content": _data(_ref(model))},
            **_problems(*_CLIENT, ("404", "There is none with this ID, or none that the token may read about.")),
        },
    }


def _alerts() -> dict[str, Any]:
    return {
        "operationId": "listAlerts",
        "summary": "What is wrong now",
        "description": "Found anew every minute; empty when all is well.",
        "responses": {
            "200": {
                "description": "With what to do about each.",
                "content": _data({"type": "array", "items": _ref("AlertDocument")}),
            },
            **_problems(*_CLIENT),
        },
    }


def _event() -> dict[str, Any]:
    return {
        "operationId": "receiveEvent",
        "summary": "DNSimple's webhook",
        "description": "Called by DNSimple. 200 once the event is committed.",
        "security": [],
        "parameters": [{"name": "secret", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {
            "200": {"description": "On record.", "content": _data(_object(outcome={"type": "string"}))},
            **_problems(
                ("400", "Not an event of DNSimple, or the host is not ours."),
                ("404", "Not the secret."),
                ("413", "The body is too large."),
            ),
        },
    }


def _status(description: str, **more: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": _object(status={"type": "string"}, **more)}}
    return {"description": description, "content": content}


_CHECKS = {"type": "object", "additionalProperties": {"type": "string"}}
_READY = {
    "200": _status("Yes.", checks=_CHECKS),
    "503": _status("Not now; `checks` says why.", checks=_CHECKS),
    "400": _problem(*_HOST),
}


def _health(operation: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": operation, "summary": summary, "security": [], "responses": responses}


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "Figures for Prometheus",
        "responses": {
            "200": {
                "description": "Prometheus' text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_problems(*_CLIENT),
        },
    }


def _document(operation: str, summary: str, content_type: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "description": "A browser may send the token as the password of Basic authentication, with any user.",
        "responses": {
            "200": {"description": "It.", "content": {content_type: {"schema": {}}}},
            **_problems(*_CLIENT),
        },
    }


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its reference followed, for the page."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target: dict[str, Any] = openapi_document()["components"]["schemas"][reference.rpartition("/")[2]]
    return target
