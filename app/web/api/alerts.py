"""GET /alarms."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app.alerts.evaluation import open_alarms
from app.web.api import schemas
from app.web.auth import requires
from app.web.context import services

blueprint = Blueprint("alarms", __name__)


@blueprint.get("/alarms")
@requires("read")
def list_alarms() -> Response:
    """What is wrong now, and what to do."""
    return jsonify({"data": [schemas.alarm_document(alarm) for alarm in open_alarms(services())]})
