"""GET /healthz (liveness) and GET /readyz (readiness)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app import __version__
from app.operations.health import check_readiness
from app.web.context import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Liveness: this process answers. Checks nothing else."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Readiness: the database answers, its schema is current, and a worker is running."""
    checks = check_readiness(services())
    ready = all(result == "ok" for result in checks.values())
    document = {"status": "ok" if ready else "unready", "version": __version__, "checks": checks}
    return jsonify(document), 200 if ready else 503
