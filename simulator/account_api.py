"""whoami, domains, delegation, zones and webhooks."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify

from simulator.api import Refusal, body, find_domain, number, paginated, sort_by, world
from simulator.clock import as_time
from simulator.state import Webhook

blueprint = Blueprint("account", __name__)

NAME_SERVERS = (
    "ns1.dnsimple-edge.com",
    "ns2.dnsimple-edge.net",
    "ns3.dnsimple-edge.io",
    "ns4.dnsimple-edge.org",
)
_USER = {"id": "1120", "entity": "user"}


@blueprint.get("/whoami")
def whoami() -> Response:
    settings = world().settings
    account = {
        "id": settings.account,
        "email": settings.email,
        "plan_identifier": f"{settings.plan}-v2-monthly",
        "created_at": as_time(0),
        "updated_at": as_time(0),
    }
    return jsonify({"data": {"user": None, "account": account}})


@blueprint.get("/<account>/domains")
def list_domains() -> Response:
    field, downwards = sort_by("name:asc", "id", "name", "expiration")
    with world().state.lock:
        domains = [domain.document(world().settings.account) for domain in world().state.domains.values()]
    domains.sort(key=lambda domain: domain["id" if field == "id" else "name"], reverse=downwards)
    return paginated(domains)


@blueprint.get("/<account>/domains/<domain>")
def show_domain(domain: str) -> Response:
    return jsonify({"data": find_domain(domain).document(world().settings.account)})


@blueprint.get("/<account>/registrar/domains/<domain>/delegation")
def show_delegation(domain: str) -> Response:
    return jsonify({"data": list(NAME_SERVERS) if find_domain(domain).delegated else ["ns1.elsewhere.example"]})


@blueprint.get("/<account>/zones/<zone>")
def show_zone(zone: str) -> Response:
    domain = find_domain(zone)
    document = {
        "id": domain.id,
        "account_id": world().settings.account,
        "name": domain.name,
        "reverse": False,
        "secondary": False,
        "last_transferred_at": None,
        "active": True,
        "created_at": as_time(domain.created_at),
        "updated_at": as_time(domain.created_at),
    }
    return jsonify({"data": document})


@blueprint.get("/<account>/webhooks")
def list_webhooks() -> Response:
    """Without `pagination` (contract, section 1)."""
    _, downwards = sort_by("id:asc", "id")
    with world().state.lock:
        webhooks = sorted(world().state.webhooks.values(), key=lambda webhook: webhook.id, reverse=downwards)
        return jsonify({"data": [webhook.document() for webhook in webhooks]})


@blueprint.post("/<account>/webhooks")
def create_webhook() -> tuple[Response, int]:
    url = body().get("url")
    scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    if not isinstance(url, str) or scheme not in (
        {"https", "http"} if world().settings.allow_http_webhooks else {"https"}
    ):
        raise Refusal(400, "Validation failed", {"url": ["is an invalid URL"]})
    state, sender = world().state, world().sender
    with state.lock:
        webhook = Webhook(state.new_id("webhook"), url)
        if world().settings.webhook_events_to_itself:
            state.save(webhook)
        sender.send("webhook.create", {"webhook": webhook.document()}, actor=_actor())
        state.save(webhook)
        return jsonify({"data": webhook.document()}), 201


@blueprint.get("/<account>/webhooks/<webhook>")
def show_webhook(webhook: str) -> Response:
    return jsonify({"data": _find(webhook).document()})


@blueprint.delete("/<account>/webhooks/<webhook>")
def delete_webhook(webhook: str) -> Response:
    found = _find(webhook)
    with world().state.lock:
        world().state.forget(found)
        world().sender.send("webhook.delete", {"webhook": found.document()}, actor=_actor())
    answer = Response(status=204)
    del answer.headers["Content-Type"]
    return answer


def _find(reference: str) -> Webhook:
    webhook = world().state.webhooks.get(number(reference, "Webhook"))
    if webhook is None:
        raise Refusal(404, f"Webhook `{reference}` not found")
    return webhook


def _actor() -> dict[str, str]:
    return _USER | {"pretty": world().settings.email}
