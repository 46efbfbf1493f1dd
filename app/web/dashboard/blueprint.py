"""What all pages share: headers, error pages and rendering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, Response, g, render_template, request
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from app.domain_names import InvalidFieldError
from app.errors import CertcourierError
from app.web.context import services
from app.web.dashboard import filters
from app.web.security_headers import DASHBOARD_POLICY

FRAGMENT = "X-Certcourier-Fragment"
_STATIC = Path(__file__).parents[1] / "static"
_FILES = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "dashboard.svg": "image/svg+xml",
}

blueprint = Blueprint("dashboard", __name__, url_prefix="/dashboard", template_folder="../templates")
filters.register(blueprint)


@blueprint.get("/static/<name>")
def static_file(name: str) -> Response:
    """The style, the script and the icon. They hold no secret, and the sign-in page needs them."""
    if name not in _FILES:
        return message(404, "Not found", "This file does not exist.")
    answer = Response((_STATIC / name).read_bytes(), content_type=_FILES[name])
    answer.headers["Cache-Control"] = "no-cache"
    answer.add_etag()
    answer.make_conditional(request)
    return answer


def render(template: str, status: int = 200, **values: Any) -> Response:
    """A page, or for the script only its changing part."""
    layout = "dashboard/fragment.html" if request.headers.get(FRAGMENT) else "dashboard/layout.html"
    html = render_template(
        f"dashboard/{template}",
        layout=layout,
        signed_in=g.get("signed_in"),
        account=services().account_id,
        **values,
    )
    return Response(html, status, content_type="text/html; charset=utf-8")


def message(status: int, title: str, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    """A page that shows an error and what to do."""
    answer = render("message.html", status, title=title, detail=detail)
    answer.headers.update(headers or {})
    return answer


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = DASHBOARD_POLICY
    response.headers["Vary"] = f"Cookie, {FRAGMENT}"
    return response


@blueprint.errorhandler(HTTPException)
def _http(error: HTTPException) -> Response:
    return message(error.code or 500, error.name or "Error", error.description or "")


@blueprint.errorhandler(ValidationError)
def _validation(error: ValidationError) -> Response:
    detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return message(400, "Invalid filter", detail)


@blueprint.errorhandler(InvalidFieldError)
def _invalid(error: InvalidFieldError) -> Response:
    return message(400, "Invalid filter", f"{error.field}: {error.message}")


@blueprint.errorhandler(CertcourierError)
def _refused(error: CertcourierError) -> Response:
    return message(409, "Not possible", str(error))


@blueprint.errorhandler(SQLAlchemyError)
def _database(_: SQLAlchemyError) -> Response:
    return message(503, "The database does not answer", "Nothing was changed. Try again in a moment.")
