"""GET /alerts."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app.alerts.evaluation import active_alerts
from app.web.api import schemas
from app.web.auth import requires
from app.web.context import services

blueprint = Blueprint("alerts", __name__)

MOST_OF_A_KIND = 1000


@blueprint.get("/alerts")
@requires("read")
def list_alerts() -> Response:
    """What is wrong now, and what to do."""
    found = active_alerts(services(), limit=MOST_OF_A_KIND)
    return jsonify({"data": [schemas.alert_document(alert) for alert in found]})
