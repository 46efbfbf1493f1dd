"""GET /alerts."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app.alerts.evaluation import open_alerts
from app.web.api import schemas
from app.web.auth import requires
from app.web.context import services

blueprint = Blueprint("alerts", __name__)


@blueprint.get("/alerts")
@requires("read")
def list_alerts() -> Response:
    """What is wrong now, and what to do."""
    return jsonify({"data": [schemas.alert_document(alert) for alert in open_alerts(services())]})
