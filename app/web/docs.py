"""GET /openapi.json, made from the schemas, and GET /docs, a page of it that needs no other host and no script."""

from __future__ import annotations

import functools
from typing import Any

from flask import Blueprint, Response, jsonify, render_template
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.web import schemas
from app.web.auth import requires
from app.web.certificates import ListQuery
from app.web.errors import PROBLEM_JSON

blueprint = Blueprint("docs", __name__, template_folder="templates")

_REF = "#/components/schemas/{model}"
_MODELS: list[type[BaseModel]] = [
    schemas.OrderDocument,
    schemas.OrderDetail,
    schemas.CertificateDocument,
    schemas.CertificateDetail,
    schemas.AlarmDocument,
]


@blueprint.get("/openapi.json")
@requires("read", browser=True)
def openapi() -> Response:
    """The OpenAPI 3.1 document."""
    return jsonify(openapi_document())


@blueprint.get("/docs")
@requires("read", browser=True)
def page() -> Response:
    """The same for people."""
    answer = Response(render_template("docs.html", api=openapi_document(), resolve=_resolve))
    answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return answer


@functools.cache
def openapi_document() -> dict[str, Any]:
    """All endpoints, their fields, answers and errors."""
    _, definitions = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REF)
    _, requests = models_json_schema([(schemas.IssueRequest, "validation")], by_alias=False, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Certcourier",
            "version": "1",
            "description": "Orders Let's Encrypt certificates through DNSimple and gets them served.",
        },
        "security": [{"token": []}],
        "paths": {
            "/issue_certificate": {"post": _issue("issueCertificate")},
            "/dnsimple/issue_certificate": {"post": _issue("issueCertificateAsInTheTutorial")},
            "/orders": {"get": _list("listOrders", "The orders, newest first", "OrderDocument")},
            "/orders/{order_id}": {"get": _one("showOrder", "order_id", "string", "One order", "OrderDetail")},
            "/certificates": {
                "get": _list("listCertificates", "The certificates, newest first", "CertificateDocument")
            },
            "/certificates/{certificate_id}": {
                "get": _one("showCertificate", "certificate_id", "integer", "One certificate", "CertificateDetail")
            },
            "/alarms": {"get": _alarms()},
            "/dnsimple/events/{secret}": {"post": _event()},
            "/healthz": {"get": _health("healthz", "Whether this process answers", {})},
            "/readyz": {
                "get": _health(
                    "readyz",
                    "Whether orders and events will be worked on",
                    {"503": {"description": "Not now; `checks` says why."}},
                )
            },
            "/openapi.json": {"get": _document("openapi", "This document", "application/json")},
            "/docs": {"get": _document("docs", "This document as a page", "text/html")},
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


def _data(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object", "properties": {"data": schema, **more}}}}


def _problems(*statuses: tuple[str, str]) -> dict[str, Any]:
    known = (*statuses, ("503", "Not even put on record; try again after Retry-After seconds."))
    return {
        status: {"description": description, "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}
        for status, description in known
    }


_NO_TOKEN = ("401", "No valid token.")
_NO_SCOPE = ("403", "The token has not the scope.")
_BAD = ("400", "A field or parameter cannot be accepted; `errors` names it.")


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
                _NO_TOKEN,
                _NO_SCOPE,
                ("409", "The first request with this Idempotency-Key is still being worked on."),
                ("413", "The body is too large."),
                ("415", "The body is of an unknown type."),
                ("422", "The Idempotency-Key came with another request before."),
            ),
        },
    }


def _list(operation: str, summary: str, model: str) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "description": field.get("description", ""), "schema": _plain(field)}
        for name, field in ListQuery.model_json_schema()["properties"].items()
    ]
    pagination = {
        "type": "object",
        "properties": {"limit": {"type": "integer"}, "next_cursor": {"type": "string"}},
    }
    content = _data({"type": "array", "items": _ref(model)}, pagination=pagination)
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "One page; `Link: rel=next` leads to the next.", "content": content},
            **_problems(_BAD, _NO_TOKEN, _NO_SCOPE),
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
            **_problems(_NO_TOKEN, _NO_SCOPE, ("404", "There is none with this ID.")),
        },
    }


def _alarms() -> dict[str, Any]:
    return {
        "operationId": "listAlarms",
        "summary": "What is wrong now",
        "description": "Found anew every minute; empty when all is well.",
        "responses": {
            "200": {
                "description": "With what to do about each.",
                "content": _data({"type": "array", "items": _ref("AlarmDocument")}),
            },
            **_problems(_NO_TOKEN, _NO_SCOPE),
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
            "200": {"description": "On record.", "content": _data({"type": "object"})},
            **_problems(
                ("400", "Not an event of DNSimple."),
                ("404", "Not the secret."),
                ("413", "The body is too large."),
            ),
        },
    }


def _health(operation: str, summary: str, more: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": {"description": "Yes."}, **more}
    return {"operationId": operation, "summary": summary, "security": [], "responses": responses}


def _document(operation: str, summary: str, content_type: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "description": "A browser may send the token as the password of Basic authentication, with any user.",
        "responses": {
            "200": {"description": "It.", "content": {content_type: {"schema": {}}}},
            **_problems(_NO_TOKEN, _NO_SCOPE),
        },
    }


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its reference followed, for the page."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target: dict[str, Any] = openapi_document()["components"]["schemas"][reference.rpartition("/")[2]]
    return target
