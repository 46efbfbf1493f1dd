"""POST /dnsimple/events/<secret>: exactly 200 once the event is committed, for DNSimple takes all else as a failure."""

from __future__ import annotations

from flask import Blueprint, Response, abort, g, jsonify, request

from app.certificates.receiving import parse_event
from app.services import WEBHOOK_PATH
from app.web.context import current

blueprint = Blueprint("events", __name__)


@blueprint.post(f"{WEBHOOK_PATH}/<secret>")
def receive_event(secret: str) -> Response:
    """Record one event of DNSimple. The path's secret is the only proof of its sender: events are not signed."""
    if not current().services.webhook_secrets.accepts(secret):
        abort(404)
    outcome = current().intake.record(parse_event(request.get_data(cache=False)))
    g.logged = True  # by "event received", with the same request_id
    return jsonify({"data": {"outcome": outcome}})
