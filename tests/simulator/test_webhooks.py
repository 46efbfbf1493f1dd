"""The simulator's events: DNSimple's envelope and headers, its retries, its suppression; and restarts."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import requests

from tests.support.event_receiver import EventReceiver
from tests.support.simulator_api import issue, register
from tests.support.simulator_process import Simulator


def test_an_event_looks_as_dnsimple_posts_it(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    receiver.next("webhook.create")
    number = issue(simulator)
    headers, body = receiver.events.get(timeout=10)
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("DNSimple-Webhook-Notifier/")
    assert headers["accept-encoding"] == "gzip"
    event = json.loads(body)
    assert list(event) == ["data", "name", "actor", "account", "api_version", "request_identifier"]
    assert body == json.dumps(event)
    assert event["name"] == "certificate.issue"
    assert event["account"]["id"] == 1010
    assert event["actor"] == {"id": "system", "entity": "dnsimple", "pretty": "support@dnsimple.com"}
    certificate = event["data"]["certificate"]
    assert (certificate["id"], certificate["state"]) == (number, "issued")
    assert {"csr", "contact_id", "domain_id"} <= set(certificate)
    assert "PRIVATE KEY" not in body
    assert "BEGIN CERTIFICATE-" not in body


@pytest.mark.parametrize("simulator", [{"webhook_retry_base": 0.05}], indirect=True)
@pytest.mark.parametrize("status", [201, 204, 301, 404, 500])
def test_an_event_is_sent_again_until_exactly_200(simulator: Simulator, receiver: EventReceiver, status: int) -> None:
    register(simulator, receiver)
    receiver.next("webhook.create")
    receiver.statuses = [status, status, 200]
    issue(simulator)
    identifiers = [receiver.next()["request_identifier"] for _ in range(3)]
    assert len(set(identifiers)) == 1
    simulator.wait_until_delivered()
    assert receiver.events.empty()


@pytest.mark.parametrize("simulator", [{"webhook_retry_base": 0.001, "suppress_after": 4}], indirect=True)
def test_an_endpoint_that_keeps_failing_is_suppressed(simulator: Simulator, receiver: EventReceiver) -> None:
    hook = register(simulator, receiver)
    receiver.next("webhook.create")
    receiver.statuses = [500]
    issue(simulator)
    simulator.wait_until_delivered()
    assert simulator.api("GET", f"/webhooks/{hook}")["suppressed_at"] is not None
    attempts = receiver.events.qsize()
    assert attempts == 4
    issue(simulator, "api")
    simulator.wait_until_delivered()
    assert receiver.events.qsize() == attempts
    # A new registration receives events again.
    simulator.api("DELETE", f"/webhooks/{hook}")
    receiver.statuses = [200]
    register(simulator, receiver)
    receiver.next("webhook.create")


@pytest.mark.parametrize("simulator", [{"webhook_retry_base": 0.001, "webhook_attempts": 3}], indirect=True)
def test_an_event_is_dropped_after_the_last_attempt(simulator: Simulator, receiver: EventReceiver) -> None:
    hook = register(simulator, receiver)
    receiver.next("webhook.create")
    receiver.statuses = [500]
    issue(simulator)
    simulator.wait_until_delivered()
    assert receiver.events.qsize() == 3
    assert simulator.api("GET", f"/webhooks/{hook}")["suppressed_at"] is None


@pytest.mark.parametrize("simulator", [{"deliver_times": 3}], indirect=True)
def test_every_event_can_be_delivered_several_times(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    issue(simulator)
    assert len({receiver.next()["request_identifier"] for _ in range(3)}) == 1


def test_a_renewal_is_announced_under_its_new_id(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    first = issue(simulator)
    receiver.next()
    second = simulator.renew(first)
    assert receiver.next()["data"]["certificate"]["id"] == second


def test_a_failed_issuance_sends_nothing(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    receiver.next("webhook.create")
    simulator.outcome("example.com", "failed")
    number = issue(simulator)
    simulator.wait_for_state("example.com", number, "failed")
    simulator.wait_until_delivered()
    assert receiver.events.empty()


def test_events_can_be_forged_and_replayed(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    forged = {"name": "certificate.issue", "request_identifier": "x-1", "data": {}}
    simulator.control("POST", "/events", forged)
    assert receiver.next() == forged
    simulator.control("POST", "/replay", {"request_identifier": "x-1", "times": 2})
    assert [receiver.next(), receiver.next()] == [forged, forged]


def test_all_webhooks_are_notified_of_a_new_webhook(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    receiver.next("webhook.create")
    simulator.api("POST", "/webhooks", {"url": "https://other.example/secret"})
    assert receiver.next("webhook.create")["data"]["webhook"]["url"] == "https://other.example/secret"


@pytest.mark.parametrize("simulator", [{"allow_http_webhooks": False}], indirect=True)
@pytest.mark.parametrize("url", ["http://a.example/x", "a.example", "", None, 5])
def test_a_webhook_has_to_be_https(simulator: Simulator, url: object) -> None:
    answer = requests.post(
        f"{simulator.url}/v2/1010/webhooks",
        json={"url": url},
        headers={"Authorization": "Bearer simulated-token"},
        timeout=10,
    )
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["url"])


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_resumes_after_a_restart(tmp_path: Path, receiver: EventReceiver, end: str) -> None:
    """An unfinished issuance and an unacknowledged event survive a stop and a kill."""
    file = tmp_path / "state" / "simulator.db"
    options = {"state": file, "domain": ["example.com"], "allow_http_webhooks": True, "webhook_retry_base": 0.5}
    first = Simulator(issue_delay=0.05, **options).start()
    register(first, receiver)
    receiver.next("webhook.create")
    receiver.statuses = [500]
    refused = issue(first)
    receiver.next()
    first.control("POST", "/settings", {"issue_delay": 1.0})
    pending = issue(first, "api")
    root = first.root_pem()
    getattr(first, end)()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    receiver.statuses = [200]
    receiver.forget()  # an event is sent at least once: the first process may have repeated the refused one
    with Simulator(issue_delay=0.05, **options) as second:
        received: set[int] = set()
        while received != {refused, pending}:
            received.add(receiver.next()["data"]["certificate"]["id"])
        assert second.root_pem() == root
        assert second.purchase("example.com") > pending
        second.wait_until_delivered()


def test_it_stops_cleanly() -> None:
    assert Simulator().start().stop() == 0
