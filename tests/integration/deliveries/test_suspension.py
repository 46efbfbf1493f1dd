"""A webhook's receiver that answers 410 Gone is left alone, by every process, until the operator enables it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.operations.health import check_destinations
from app.services import Services
from app.worker.worker import run_job
from config import Settings
from tests.support.command_line import run
from tests.support.harness import drain, jobs, make_due, make_settings
from tests.support.orders import deliver_renewal, delivery_states, order, post_event, show
from tests.support.simulator_process import Simulator
from tests.support.webhook_receiver import SECRET, Inbox, Receiver, receiver, write_secret


@pytest.fixture(scope="module")
def receiver_process() -> Iterator[Receiver]:
    with receiver(SECRET) as process:
        yield process


@pytest.fixture
def far(receiver_process: Receiver) -> Inbox:
    return Inbox(receiver_process)


@pytest.fixture
def settings(database_url: str, simulator: Simulator, tmp_path: Path, far: Inbox) -> Settings:
    """A receiver of webhooks and a folder."""
    secret_file = write_secret(tmp_path / "secret", SECRET)
    destinations = tmp_path / "destinations.toml"
    destinations.write_text(
        f'[[destination]]\nkind = "webhook"\nname = "hook"\nurl = "{far.process.url}/"\nallow_private = true\n'
        f'secret_file = "{secret_file}"\n'
        f'[[destination]]\nkind = "files"\nname = "files"\npath = "{tmp_path / "files"}"\n'
    )
    return make_settings(database_url, simulator.url, tmp_path / "var", destinations_file=destinations)


def test_after_410_nothing_is_sent_until_it_is_enabled_and_then_what_was_owed(
    app: Flask, client: FlaskClient, services: Services, simulator: Simulator, domain: str, far: Inbox
) -> None:
    check_destinations(services.destinations, services.time_limits)
    first = order(client, simulator, domain)["certificate_id"]
    far.process.will_answer({"status": 410})
    post_event(client, simulator, domain, first)
    drain(services)
    assert delivery_states(client, first)["files"][0] == "delivered"
    state, detail = delivery_states(client, first)["hook"]
    assert state == "failed"
    assert "answered 410" in detail
    assert "`certcourier destinations resume hook`" in detail

    second = deliver_renewal(client, services, simulator, domain, first)
    state, detail = delivery_states(client, second)["hook"]
    assert state == "failed"
    assert detail.startswith("hook is suspended since 20")
    assert len(far.messages()) == 1
    (row,) = [row for row in json.loads(run(app, "destinations", "list", "--json")) if row["suspended_at"]]
    assert (row["name"], row["kind"]) == ("hook", "webhook")

    assert "2 failed deliveries queued for retry" in run(app, "destinations", "resume", "hook")
    assert delivery_states(client, second)["hook"][0] == "pending"
    drain(services)
    assert delivery_states(client, first)["hook"][0] == "superseded"
    assert delivery_states(client, second)["hook"][0] == "delivered"
    assert far.messages()[-1]["message"]["data"]["certificate_id"] == second
    assert "no suspended destination is named 'hook'" in run(app, "destinations", "resume", "hook", status=1)


def test_enabling_leaves_alone_what_failed_elsewhere(
    app: Flask, client: FlaskClient, services: Services, simulator: Simulator, domain: str, far: Inbox
) -> None:
    certificate_id = order(client, simulator, domain)["certificate_id"]
    far.process.will_answer({"status": 410})
    post_event(client, simulator, domain, certificate_id)
    without_files = replace(services, destinations={"hook": services.destinations["hook"]})
    while any(job.finished_at is None for job in jobs(services, "fetch_certificate")):
        (claim,) = services.queue.claim(1, worker_id="test")
        run_job(services, claim)
    drain(without_files)
    assert delivery_states(client, certificate_id)["files"][0] == "failed"
    assert "1 failed delivery queued for retry" in run(app, "destinations", "resume", "hook")
    assert delivery_states(client, certificate_id)["files"][0] == "failed"
    assert delivery_states(client, certificate_id)["hook"][0] == "pending"


def test_a_receiver_that_is_busy_is_asked_again_when_it_said_and_that_costs_no_attempt(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, far: Inbox
) -> None:
    certificate_id = order(client, simulator, domain)["certificate_id"]
    far.process.will_answer({"status": 503, "headers": {"Retry-After": "3600"}}, {"status": 500})
    post_event(client, simulator, domain, certificate_id)
    drain(services)
    (job,) = [job for job in jobs(services, "deliver") if job.args["destination"] == "hook"]
    assert (job.attempts, job.snoozes) == (0, 1)
    assert delivery_states(client, certificate_id)["hook"][0] == "failing"
    assert "answered 503" in delivery_states(client, certificate_id)["hook"][1]
    for attempts in (1, 2):
        make_due(services, "deliver")
        drain(services)
        (job,) = [job for job in jobs(services, "deliver") if job.args["destination"] == "hook"]
        assert job.attempts == attempts
    assert delivery_states(client, certificate_id)["hook"][0] == "delivered"
    assert len({heard["headers"]["webhook-id"] for heard in far.messages()}) == 1


def test_neither_the_key_nor_the_secret_is_in_a_message_or_a_record(
    client: FlaskClient,
    services: Services,
    simulator: Simulator,
    domain: str,
    far: Inbox,
    capsys: pytest.CaptureFixture[str],
) -> None:
    certificate_id = order(client, simulator, domain)["certificate_id"]
    far.process.will_answer({"status": 500})
    post_event(client, simulator, domain, certificate_id)
    drain(services, ahead=True)
    told = json.dumps(show(client, certificate_id)) + capsys.readouterr().err + json.dumps(far.messages())
    assert "PRIVATE KEY" not in told
    assert SECRET not in told
