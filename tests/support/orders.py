"""Certificates ordered through the API, their events and their deliveries, with jobs run in this thread."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from app.services import Services
from tests.support.harness import WEBHOOK_SECRET, drain, event, make_due
from tests.support.simulator_process import Simulator

EVENTS_PATH = f"/dnsimple/events/{WEBHOOK_SECRET}"


def order(client: FlaskClient, simulator: Simulator, domain: str, **more: Any) -> dict[str, Any]:
    """The data of an order whose certificate is issued at the simulator."""
    data: dict[str, Any] = client.post("/issue_certificate", json={"domain": domain} | more).json["data"]
    simulator.wait_until_issued(domain, data["certificate_id"])
    return data


def post_event(client: FlaskClient, simulator: Simulator, domain: str, certificate_id: int) -> None:
    answer = client.post(EVENTS_PATH, json=event(certificate_id, simulator.domain_id(domain)))
    assert answer.status_code == 200


def show(client: FlaskClient, certificate_id: int) -> dict[str, Any]:
    data: dict[str, Any] = client.get(f"/certificates/{certificate_id}").json["data"]
    return data


def order_and_fetch(client: FlaskClient, services: Services, simulator: Simulator, domain: str, **more: Any) -> int:
    """The ID of a certificate that is issued and fetched without an event."""
    number = int(client.post("/issue_certificate", json={"domain": domain} | more).json["data"]["certificate_id"])
    simulator.wait_until_issued(domain, number)
    make_due(services, "poll_issuance")
    drain(services)
    simulator.reset_calls()
    return number


def delivery_states(client: FlaskClient, certificate_id: int) -> dict[str, tuple[str, str]]:
    return {row["destination"]: (row["state"], row["detail"]) for row in show(client, certificate_id)["deliveries"]}


def deliver_renewal(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, certificate_id: int
) -> int:
    new = simulator.renew(certificate_id)
    post_event(client, simulator, domain, new)
    drain(services)
    return new
