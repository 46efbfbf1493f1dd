"""A Flask application that does nothing: what gunicorn, Flask and the interpreter cost by themselves."""

from __future__ import annotations

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.post("/dnsimple/events/<secret>")
def receive(secret: str) -> Response:
    """Say that all is well, having done nothing."""
    return jsonify({"data": {"outcome": secret[:0]}})


@app.get("/healthz")
def healthz() -> str:
    """Alive."""
    return "ok"
