"""Errors as `application/problem+json` (RFC 9457), with the tutorial's `{"error": {"message"}}` in addition."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, Response, json
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from app.auth.scopes import DomainNotPermittedError
from app.domain_names import InvalidFieldError
from app.events.ingestion import InvalidEventError
from app.orders.idempotency import KeyInFlightError, KeyReusedError

log = structlog.get_logger("certcourier.web")

PROBLEM_JSON = "application/problem+json"


def problem_document(status: int, kind: str, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """`type` is a stable URN; `detail` describes this occurrence and what to do."""
    return {
        "type": f"urn:certcourier:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        **more,
        "error": {"message": detail},
    }


def problem(
    status: int, kind: str, title: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """A problem document as a response."""
    return render(problem_document(status, kind, title, detail, **more), headers)


def render(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """An existing problem document as a response with its status."""
    return Response(json.dumps(document), document["status"], headers, content_type=PROBLEM_JSON)


def invalid_fields(errors: list[dict[str, str]]) -> Response:
    """400 for a request with invalid fields; each error is `{"field", "message"}`."""
    detail = "; ".join(f"{error['field']}: {error['message']}" for error in errors)
    return problem(400, "invalid-request", "Invalid request", detail, errors=errors)


def register(app: Flask) -> None:
    """Register the handlers: no error of the API is HTML or contains a traceback."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ValidationError, _validation)
    app.register_error_handler(InvalidFieldError, lambda e: invalid_fields([{"field": e.field, "message": e.message}]))
    app.register_error_handler(
        InvalidEventError, lambda e: problem(400, "invalid-event", "Not a DNSimple event", str(e))
    )
    app.register_error_handler(
        KeyReusedError,
        lambda e: problem(422, "idempotency-key-reused", "The key was used for another request", str(e)),
    )
    app.register_error_handler(DomainNotPermittedError, _not_permitted)
    app.register_error_handler(KeyInFlightError, _in_flight)
    app.register_error_handler(SQLAlchemyError, _database)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    kind = (error.name or "error").lower().replace(" ", "-").replace("'", "")
    response = problem(status, kind, error.name or "Error", error.description or error.name or "")
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers.add(name, value)
    return response


def _validation(error: ValidationError) -> Response:
    return invalid_fields([{"field": _path(item["loc"]), "message": _message(dict(item))} for item in error.errors()])


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "body"


def _message(item: dict[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "is not a field of this request, or was given under two names"
    if item["type"] == "missing":
        return "is required"
    return str(item["msg"]).removeprefix("Value error, ")


def _not_permitted(error: DomainNotPermittedError) -> Response:
    errors = [{"field": error.field, "message": str(error)}]
    return problem(403, "domain-not-permitted", "The token may not order for this domain", str(error), errors=errors)


def _in_flight(error: KeyInFlightError) -> Response:
    headers = {"Retry-After": "2"}
    return problem(
        409, "idempotency-key-in-flight", "The first request is still in progress", str(error), headers=headers
    )


def _database(error: SQLAlchemyError) -> Response:
    log.error("database error", reason=type(error).__name__)
    detail = "The request was not stored and has had no effect. Send it again."
    return problem(503, "service-unavailable", "The database is unavailable", detail, headers={"Retry-After": "5"})


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    detail = "An unexpected error occurred. The logs have the details under this response's X-Request-Id."
    return problem(500, "internal-server-error", "Internal server error", detail)
