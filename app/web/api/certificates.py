"""GET /orders, /orders/<id>, /certificates, /certificates/<id>."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, jsonify, request, url_for
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.certificates import queries
from app.domain_names import InvalidFieldError, parse_domain
from app.web.api import schemas
from app.web.auth import client, requires
from app.web.context import current, services

blueprint = Blueprint("certificates", __name__)


class ListQuery(BaseModel):
    """Query parameters of a list request."""

    model_config = ConfigDict(extra="forbid")

    domain: str | None = Field(None, max_length=1000, description="Filter by domain.")
    state: str | None = Field(
        None,
        pattern="^[a-z_]{1,40}$",
        description="Filter by state (in the list of orders: the order's state).",
    )
    limit: int = Field(50, ge=1, le=200, description="Maximum number of items.")
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the previous page.")

    @field_validator("domain")
    @classmethod
    def _domain(cls, value: str | None) -> str | None:
        try:
            return None if value is None else parse_domain(value)
        except InvalidFieldError as error:
            raise ValueError(error.message) from None


@blueprint.get("/orders")
@requires("read", by_domain=True)
def list_orders() -> Response:
    """List orders, newest first."""
    query = ListQuery.model_validate(request.args.to_dict())
    page = queries.list_orders(
        services().database,
        domain=query.domain,
        state=query.state,
        cursor=query.cursor,
        limit=query.limit,
        domains=client().domains,
    )
    return _page([schemas.order_document(order, None) for order in page.rows], page.next_cursor, query)


@blueprint.get("/orders/<order_id>")
@requires("read", by_domain=True)
def show_order(order_id: str) -> Response:
    """Show one order with its timeline."""
    found = queries.find_order(services().database, order_id, domains=client().domains)
    if found is None:
        abort(404, "no order with this ID")
    return jsonify({"data": schemas.order_detail(*found)})


@blueprint.get("/certificates")
@requires("read", by_domain=True)
def list_certificates() -> Response:
    """List certificates, newest first."""
    query = ListQuery.model_validate(request.args.to_dict())
    page = queries.list_certificates(
        services().database,
        domain=query.domain,
        state=query.state,
        cursor=query.cursor,
        limit=query.limit,
        domains=client().domains,
    )
    return _page([schemas.certificate_document(row) for row in page.rows], page.next_cursor, query)


@blueprint.get("/certificates/<id:certificate_id>")
@requires("read", by_domain=True)
def show_certificate(certificate_id: int) -> Response:
    """Show one certificate with its PEM data and timeline."""
    found = queries.find_certificate(services().database, certificate_id, domains=client().domains)
    if found is None:
        abort(404, "no certificate with this ID")
    current().reads.note(services(), client().actor, certificate_id)
    return jsonify({"data": schemas.certificate_detail(*found)})


def _page(rows: list[dict[str, Any]], next_cursor: str | None, query: ListQuery) -> Response:
    response = jsonify({"data": rows, "pagination": {"limit": query.limit, "next_cursor": next_cursor}})
    if next_cursor and request.endpoint:
        arguments = query.model_dump(exclude_none=True) | {"cursor": next_cursor}
        response.headers["Link"] = f'<{url_for(request.endpoint, **arguments)}>; rel="next"'
    return response
