"""The baseline: what DNSimple's tutorial does. The webhook's handler downloads the certificate and stores nothing."""

from __future__ import annotations

import os

from dnsimple import Client
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
_ACCOUNT = int(os.environ["DNSIMPLE_ACCOUNT_ID"])


def _client() -> Client:
    # One for each request: the client's answers are shared by all threads that share it.
    return Client(base_url=os.environ["DNSIMPLE_BASE_URL"], access_token=os.environ["DNSIMPLE_API_TOKEN"])


@app.post("/dnsimple/events/<secret>")
def receive(secret: str) -> Response:
    """Download certificate and private key, then answer."""
    certificate = request.get_json()["data"]["certificate"]
    path = f"/{_ACCOUNT}/domains/{certificate['domain_id']}/certificates/{certificate['id']}"
    client = _client()
    pair = [client.get(f"{path}/{part}").json()["data"] for part in ("download", "private_key")]
    return jsonify({"data": {"outcome": f"{len(pair)} files{secret[:0]}"}})


@app.get("/healthz")
def healthz() -> str:
    """Alive."""
    return "ok"
