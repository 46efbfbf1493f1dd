"""POST /dnsimple/events/<secret>: exactly 200 once the event is committed, for DNSimple takes all else as a failure."""

from __future__ import annotations

import hmac

from flask import Blueprint, Response, abort, jsonify, request

from app.certificates.receiving import parse_event, record
from app.services import WEBHOOK_PATH
from app.web.context import services

blueprint = Blueprint("events", __name__)


@blueprint.post(f"{WEBHOOK_PATH}/<secret>")
def receive_event(secret: str) -> Response:
    """Record one event of DNSimple. The path's secret is the only proof of its sender: events are not signed."""
    known = services().webhook_secret.encode()
    if not hmac.compare_digest(secret.encode(), known):
        abort(404)
    outcome = record(services(), parse_event(request.get_data(cache=False)))
    return jsonify({"data": {"outcome": outcome}})
