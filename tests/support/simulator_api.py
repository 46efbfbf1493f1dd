"""The simulator's API, called as a client does."""

from __future__ import annotations

from typing import Any

import requests
from cryptography import x509

from tests.support.event_receiver import EventReceiver
from tests.support.simulator_process import Simulator

AUTHORIZATION = {"Authorization": "Bearer simulated-token"}
ORDER = "/domains/example.com/certificates/letsencrypt"


def call(simulator: Simulator, method: str, path: str, **more: Any) -> requests.Response:
    """A call as a client makes it, counted."""
    headers = more.pop("headers", AUTHORIZATION)
    return requests.request(method, f"{simulator.url}/v2/1010{path}", headers=headers, timeout=10, **more)


def order(simulator: Simulator, **body: Any) -> requests.Response:
    return call(simulator, "POST", ORDER, json=body)


def issued(simulator: Simulator, **body: Any) -> int:
    number = simulator.purchase("example.com", **body)
    simulator.issue("example.com", number)
    simulator.wait_until_issued("example.com", number)
    return number


def leaf(simulator: Simulator, number: int) -> x509.Certificate:
    download = simulator.api("GET", f"/domains/example.com/certificates/{number}/download")
    return x509.load_pem_x509_certificate(download["server"].encode())


def register(simulator: Simulator, receiver: EventReceiver) -> int:
    return int(simulator.api("POST", "/webhooks", {"url": receiver.url})["id"])


def issue(simulator: Simulator, name: str = "www") -> int:
    number = simulator.purchase("example.com", name=name)
    simulator.issue("example.com", number)
    return number
