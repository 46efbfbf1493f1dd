"""GET /healthz (this process answers) and GET /readyz (orders and events will be worked on)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app.operations.health import check_readiness
from app.web.context import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Whether this process answers at all; looks at nothing else."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Whether the database answers, its tables are current, and a worker was heard from lately."""
    checks = check_readiness(services())
    ready = all(found == "ok" for found in checks.values())
    return jsonify({"status": "ok" if ready else "unready", "checks": checks}), 200 if ready else 503
