"""A Flask application that does nothing: the cost of gunicorn, Flask and the interpreter."""

from __future__ import annotations

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.post("/dnsimple/events/<secret>")
def receive(secret: str) -> Response:
    """Return 200 without doing anything."""
    return jsonify({"data": {"outcome": secret[:0]}})


@app.get("/healthz")
def healthz() -> str:
    """Alive."""
    return "ok"
