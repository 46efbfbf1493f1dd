"""POST /dnsimple/events/<secret>: 200 once the event is committed; DNSimple treats every other status as a failure."""

from __future__ import annotations

from ipaddress import ip_address

from flask import Blueprint, Request, Response, abort, g, jsonify, request

from app.events.ingestion import parse_event
from app.services import WEBHOOK_PATH
from app.web.context import current
from app.web.proxies import client_address

blueprint = Blueprint("events", __name__)


@blueprint.post(f"{WEBHOOK_PATH}/<secret>")
def receive_event(secret: str) -> Response:
    """Record one event. The secret in the path is the only proof of its sender: DNSimple does not sign events."""
    if not _is_allowed(request) or not current().services.webhook_secrets.accepts(secret):
        abort(404)
    outcome = current().ingestion.record(parse_event(request.get_data(cache=False)))
    g.logged = True  # by "event received", with the same request_id
    return jsonify({"data": {"outcome": outcome}})


def _is_allowed(asked: Request) -> bool:
    """Whether the request comes from WEBHOOK_NETWORKS, if set."""
    networks = current().services.settings.webhook_networks
    if not networks:
        return True
    address = client_address(asked)
    return bool(address) and any(ip_address(address) in network for network in networks)
