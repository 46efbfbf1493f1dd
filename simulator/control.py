"""The control interface, `/_simulator/...`: inspect and change the simulation. No token; only for this machine."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from flask import Blueprint, Response, abort, jsonify, request

from simulator.api import Refusal, add_domain, find_domain, world
from simulator.catalogue import parse_rates
from simulator.faults import Fault
from simulator.settings import CHANGEABLE
from simulator.state import Certificate

blueprint = Blueprint("control", __name__, url_prefix="/_simulator")


@blueprint.before_request
def _only_this_machine() -> None:
    if request.remote_addr not in {"127.0.0.1", "::1"}:
        abort(404)


@blueprint.get("/calls")
def show_calls() -> Response:
    with world().lock:
        calls = list(world().calls)
    totals = Counter(f"{call['method']} {call['path_template']}" for call in calls)
    return jsonify({"calls": calls, "totals": totals, "refused": world().quota.refused})


@blueprint.delete("/calls")
def forget_calls() -> Response:
    with world().lock:
        world().calls.clear()
    return _done()


@blueprint.post("/spend")
def spend() -> Response:
    """Spend API calls, as another program using the account would."""
    world().quota.spend_elsewhere(int(_given().get("calls", 0)))
    return _done()


@blueprint.get("/state")
def show_state() -> Response:
    state = world().state
    with state.lock:
        return jsonify({
            "now": world().clock.now(),
            "domains": {domain.name: domain.id for domain in state.domains.values()},
            "certificates": dict(Counter(certificate.state for certificate in state.certificates.values())),
            "webhooks": [webhook.document() | {"failures": webhook.failures} for webhook in state.webhooks.values()],
            "outstanding_deliveries": len(state.deliveries),
            "idle": world().issuer.is_idle(),
        })  # fmt: skip


@blueprint.post("/domains")
def make_domain() -> Response:
    given = _given()
    name = str(given.get("name", "")).lower()
    domain = world().state.domains.get(world().state.domain_ids.get(name, 0)) or add_domain(name)
    with world().state.lock:
        domain.delegated = bool(given.get("delegated", True))
        world().state.save(domain)
    return jsonify(domain.document(world().settings.account))


@blueprint.post("/outcomes")
def script_outcome() -> Response:
    given = _given()
    domain = find_domain(str(given.get("domain", "")))
    world().issuer.script(domain.name, given.get("name"), str(given.get("state", "failed")))
    return _done()


@blueprint.post("/renew/<int:certificate>")
def renew(certificate: int) -> Response:
    return jsonify(world().issuer.renew(_issued(certificate), issue="now").document())


@blueprint.post("/remove_private_key/<int:certificate>")
def remove_private_key(certificate: int) -> Response:
    found = world().state.certificates.get(certificate)
    if found is None:
        raise Refusal(404, f"Certificate `{certificate}` not found")
    with world().state.lock:
        found.private_key = None
        world().state.save(found)
        world().sender.send("certificate.remove_private_key", {"certificate": found.document()})
    return _done()


@blueprint.post("/auto_renew/<int:certificate>")
def set_auto_renew(certificate: int) -> Response:
    enabled = bool(_given().get("enabled", True))
    world().issuer.set_auto_renew(_issued(certificate), enabled=enabled)
    return _done()


@blueprint.post("/reissue/<int:certificate>")
def reissue(certificate: int) -> Response:
    world().issuer.reissue(_issued(certificate))
    return _done()


@blueprint.post("/lifetimes")
def set_lifetime() -> Response:
    given = _given()
    domain = find_domain(str(given.get("domain", "")))
    world().issuer.set_lifetime(domain.name, float(given.get("days", world().settings.validity_days)))
    return _done()


@blueprint.post("/windows")
def script_window() -> Response:
    """Set the renewal window of one or all certificates, in seconds from now; both can be negative."""
    given, now = _given(), world().clock.now()
    window = {
        "start": now + float(given.get("start_in", -3600)),
        "end": now + float(given.get("end_in", -1800)),
        "explanation_url": given.get("explanation_url"),
    }
    number = given.get("certificate_id")
    world().windows[None if number is None else int(number)] = window
    return _done()


@blueprint.delete("/windows")
def forget_windows() -> Response:
    world().windows.clear()
    return _done()


@blueprint.post("/clock")
def move_clock() -> Response:
    world().clock.ahead += float(_given().get("advance_seconds", 0))
    world().issuer.wake()
    return jsonify({"now": world().clock.now()})


@blueprint.post("/events")
def send_event() -> Response:
    """Post a body to all webhooks unchanged."""
    document = _given()
    identifier = document.get("request_identifier")
    world().sender.send_raw(json.dumps(document), identifier if isinstance(identifier, str) else None)
    return _done()


@blueprint.post("/replay")
def replay() -> Response:
    given = _given()
    if not world().sender.replay(str(given.get("request_identifier")), int(given.get("times", 1))):
        raise Refusal(404, "unknown event")
    return _done()


@blueprint.post("/faults")
def add_fault() -> Response:
    try:
        world().faults.add(Fault.from_document(_given()))
    except (TypeError, ValueError) as error:
        raise Refusal(400, str(error)) from None
    return _done()


@blueprint.get("/faults")
def show_faults() -> Response:
    dice = world().dice
    thrown = {name: times for name, times in dice.thrown.items() if times}
    state = world().state
    with state.lock:
        mishaps = {state.domains[number].name: count for number, count in state.mishaps.items()}
    known = {"seed": dice.seed, "rates": dice.rates, "thrown": thrown, "to_come": world().faults.to_come()}
    return jsonify(known | {"mishaps": mishaps})


@blueprint.post("/rates")
def set_rates() -> Response:
    try:
        world().dice.rates |= parse_rates(_given().items())
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    return _done()


@blueprint.delete("/faults")
def clear_faults() -> Response:
    world().faults.clear()
    world().dice.rates = {}
    return _done()


@blueprint.post("/settings")
def change_settings() -> Response:
    settings, given = world().settings, _given()
    for name, value in given.items():
        if name not in CHANGEABLE:
            raise Refusal(400, f"{name} cannot be changed while the simulator runs")
        kind = type(getattr(settings, name))
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind | int):
            raise Refusal(400, f"{name} must be of type {kind.__name__}")
    for name, value in given.items():
        setattr(settings, name, type(getattr(settings, name))(value))
    world().issuer.wake()
    return _done()


@blueprint.get("/ca")
def show_root() -> Response:
    return Response(world().state.authority.root, content_type="application/x-pem-file")


def _issued(number: int) -> Certificate:
    found = world().state.certificates.get(number)
    if found is None or found.state != "issued":
        raise Refusal(404, f"Certificate `{number}` not found, or not issued")
    return found


def _given() -> dict[str, Any]:
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise Refusal(400, "send a JSON object")
    return document


def _done() -> Response:
    return Response(status=204)
