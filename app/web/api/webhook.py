"""POST /dnsimple/events/<secret>: exactly 200 once the event is committed, for DNSimple takes all else as a failure."""

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
    """Record one event of DNSimple. The path's secret is the only proof of its sender: events are not signed."""
    if not _is_allowed(request) or not current().services.webhook_secrets.accepts(secret):
        abort(404)
    outcome = current().ingestion.record(parse_event(request.get_data(cache=False)))
    g.logged = True  # by "event received", with the same request_id
    return jsonify({"data": {"outcome": outcome}})


def _is_allowed(asked: Request) -> bool:
    """Whether it comes from one of WEBHOOK_NETWORKS, if there are any."""
    networks = current().services.settings.webhook_networks
    if not networks:
        return True
    address = client_address(asked)
    return bool(address) and any(ip_address(address) in network for network in networks)
