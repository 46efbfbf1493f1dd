"""GET /openapi.json, built from the schemas, and GET /docs, the same as a page without script or external resources."""

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
    """Redirect the root address to the dashboard."""
    return redirect(url_for("dashboard.overview"), 303)


@blueprint.get("/openapi.json")
@requires("read", browser=True, by_domain=True)
def openapi() -> Response:
    """The OpenAPI 3.1 document."""
    return jsonify(openapi_document())


@blueprint.get("/docs")
@requires("read", browser=True, by_domain=True)
def page() -> Response:
    """The OpenAPI document as a page."""
    answer = Response(render_template("docs.html", api=openapi_document(), resolve=_resolve))
    answer.headers["Content-Security-Policy"] = PAGE_POLICY
    return answer


@blueprint.get("/docs.css")
@requires("read", browser=True, by_domain=True)
def style() -> Response:
    """The page's style sheet; a file, so that the page needs no inline code."""
    return Response(_STYLE.read_text(), content_type="text/css; charset=utf-8")


@functools.cache
def openapi_document() -> dict[str, Any]:
    """All endpoints with their fields, responses and errors."""
    _, definitions = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REF)
    _, requests = models_json_schema([(schemas.IssueRequest, "validation")], by_alias=False, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Certcourier",
            "version": __version__,
            "description": "Orders Let's Encrypt certificates through DNSimple and delivers them to your servers.",
        },
        "security": [{"token": []}],
        "paths": {
            "/issue_certificate": {"post": _issue("issueCertificate")},
            "/dnsimple/issue_certificate": {"post": _issue("issueCertificateAtTutorialPath")},
            "/orders": {
                "get": _list("listOrders", "List orders, newest first", "OrderDocument", states=tuple(OrderState))
            },
            "/orders/{order_id}": {"get": _one("showOrder", "order_id", "string", "Show an order", "OrderDetail")},
            "/certificates": {
                "get": _list("listCertificates", "List certificates, newest first", "CertificateDocument")
            },
            "/certificates/{certificate_id}": {
                "get": _one("showCertificate", "certificate_id", "integer", "Show a certificate", "CertificateDetail")
            },
            "/alerts": {"get": _alerts()},
            "/dnsimple/events/{secret}": {"post": _event()},
            "/healthz": {"get": _health("healthz", "Liveness", {"200": _status("The process answers.")})},
            "/readyz": {"get": _health("readyz", "Readiness", _READY)},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _document("openapi", "OpenAPI document", "application/json")},
            "/docs": {"get": _document("docs", "API reference", "text/html")},
            "/docs.css": {"get": _document("docsStyle", "Style sheet of the API reference", "text/css")},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": definitions.get("$defs", {}) | requests.get("$defs", {}) | {"Problem": _PROBLEM},
        },
    }


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457), with the `error` object of DNSimple's tutorial in addition.",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        "type": {"type": "string", "description": "A stable URN: `urn:certcourier:problem:...`"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What went wrong and what to do."},
        "errors": {
            "type": "array",
            "description": "The invalid fields, each with `field` and `message`.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "order_id": {"type": "string", "description": "The order, which is stored as failed."},
        "dnsimple": {"type": "object", "description": "DNSimple's response: `status`, `message`, `request_id`."},
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
    """Problem responses, including those that every operation can return."""
    known = dict((_HOST, _AWAY)) | dict(statuses)
    return {status: _problem(status, known[status]) for status in sorted(known)}


def _problem(status: str, description: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description, "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}
    if status in {"429", "503"}:
        answer["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    if status == "401":
        answer["headers"] = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}}
    return answer


_HOST = ("400", "Unknown host name.")
_AWAY = ("503", "The database is unavailable; the request had no effect. Retry after the seconds in Retry-After.")
_BAD = ("400", "Invalid field or parameter (named in `errors`), or unknown host name.")
_CLIENT = (
    ("401", "The token is missing or invalid."),
    ("403", "The token lacks the required scope, or is restricted to other domains."),
    ("429", "Too many requests with this token, or without a valid token from this address."),
)


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _issue(operation: str) -> dict[str, Any]:
    body = {"schema": _ref("IssueRequest")}
    return {
        "operationId": operation,
        "summary": "Order a certificate",
        "description": "The order is stored before DNSimple is called and continues if this request is interrupted.",
        "parameters": [
            _header(
                "Idempotency-Key",
                "A repeated request with the same key and body returns the first response (for 24 hours).",
            ),
            _header(
                "Prefer",
                "`respond-async`: respond immediately. `wait=N`: wait up to N seconds (at most 60) for issuance.",
            ),
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
                "description": "The order is stored and, usually, already requested at DNSimple.",
                "headers": {
                    "Location": {
                        "description": "URL of the order.",
                        "schema": {"type": "string"},
                    }
                },
                "content": _data(_ref("OrderDocument")),
            },
            **_problems(
                (
                    "400",
                    "Invalid request (`errors` names the fields), or refused by DNSimple (`order_id`, `dnsimple`).",
                ),
                *_CLIENT,
                ("409", "The first request with this Idempotency-Key is still in progress."),
                ("413", "The body is too large (MAX_BODY_BYTES)."),
                ("415", "Unsupported content type."),
                ("422", "The Idempotency-Key was used for another request."),
            ),
        },
    }


def _list(operation: str, summary: str, model: str, *, states: tuple[str, ...] = ()) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "description": field.get("description", ""), "schema": _plain(field)}
        for name, field in ListQuery.model_json_schema()["properties"].items()
    ]
    if states:
        state = next(parameter for parameter in parameters if parameter["name"] == "state")
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
            "200": {
                "description": "One page; the `Link` header with `rel=next` has the URL of the next page.",
                "content": content,
            },
            **_problems(_BAD, *_CLIENT),
        },
    }


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query parameter, which is omitted instead of null."""
    first: dict[str, Any] = field.get("anyOf", [field])[0]
    return {name: value for name, value in first.items() if name not in {"description", "title"}}


def _one(operation: str, parameter: str, kind: str, summary: str, model: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": [{"name": parameter, "in": "path", "required": True, "schema": {"type": kind}}],
        "responses": {
            "200": {"description": "Includes deliveries and timeline.", "content": _data(_ref(model))},
            **_problems(*_CLIENT, ("404", "Not found, or outside the token's domains.")),
        },
    }


def _alerts() -> dict[str, Any]:
    return {
        "operationId": "listAlerts",
        "summary": "List open alerts",
        "description": "Critical alerts first, at most 1,000 of a kind. Empty if there are no open alerts.",
        "responses": {
            "200": {
                "description": "The open alerts, each with its remedy.",
                "content": _data({"type": "array", "items": _ref("AlertDocument")}),
            },
            **_problems(*_CLIENT),
        },
    }


def _event() -> dict[str, Any]:
    return {
        "operationId": "receiveEvent",
        "summary": "Receive a webhook event",
        "description": "Called by DNSimple. Returns 200 once the event is committed.",
        "security": [],
        "parameters": [
            {
                "name": "secret",
                "in": "path",
                "required": True,
                "description": "A valid webhook secret. It is part of the URL that the worker registers at DNSimple.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {
            "200": {"description": "The event is stored.", "content": _data(_object(outcome={"type": "string"}))},
            **_problems(
                ("400", "Not a DNSimple event, or unknown host name."),
                ("404", "Wrong secret in the path, or sender outside WEBHOOK_NETWORKS."),
                ("413", "The body is too large (MAX_BODY_BYTES)."),
            ),
        },
    }


def _status(description: str, **more: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": _object(status={"type": "string"}, **more)}}
    return {"description": description, "content": content}


_CHECKS = {"type": "object", "additionalProperties": {"type": "string"}}
_READY = {
    "200": _status("Ready.", version={"type": "string"}, checks=_CHECKS),
    "503": _status("Not ready; `checks` has the reasons.", version={"type": "string"}, checks=_CHECKS),
    "400": _problem(*_HOST),
}


def _health(operation: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": operation, "summary": summary, "security": [], "responses": responses}


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "Prometheus metrics",
        "responses": {
            "200": {
                "description": "The Prometheus text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_problems(*_CLIENT),
        },
    }


def _document(operation: str, summary: str, content_type: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "description": "Browsers can send the token as the password of Basic authentication, with any user name.",
        "responses": {
            "200": {"description": "The document.", "content": {content_type: {"schema": {}}}},
            **_problems(*_CLIENT),
        },
    }


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference points to."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target: dict[str, Any] = openapi_document()["components"]["schemas"][reference.rpartition("/")[2]]
    return target
