"""Problems are found, told once, reminded of, and told when they are over; by real Apprise to a real receiver."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, insert, select, update

from app.alerts import rules
from app.db.clock import db_now, read_now
from app.db.installation_state import WEBHOOK_CHECKED_AT
from app.db.models import Alert, Certificate, Delivery, EndpointCheck, Job, Order, Quota, Worker, new_id
from app.dnsimple.budget import digest_token
from app.endpoints.registry import Endpoint
from app.jobs.kinds import JobKind
from app.notifications.notifier import NotificationFailedError, Notifier
from app.services import Services
from tests.support.command_line import run
from tests.support.harness import ACCOUNT, TOKEN, drain, jobs, make_due, register_webhook
from tests.support.receiver import Receiver
from tests.support.records import add_deliveries, add_lineages
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def telling(services: Services, receiver: Receiver) -> Services:
    return replace(services, notifier=Notifier([receiver.url]))


def watch(services: Services) -> None:
    """What happens every minute, and the messages that come of it."""
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.EVALUATE_ALERTS)
    drain(services)


def later(services: Services, **ago: float) -> None:
    """As if so much time had passed since the last messages."""
    with services.database.write() as session:
        for alert in session.scalars(select(Alert)):
            for field in ("last_notified_at", "recovery_notified_at", "cleared_at"):
                if getattr(alert, field) is not None:
                    setattr(alert, field, getattr(alert, field) - timedelta(**ago))


def write(services: Services, *statements: Any) -> None:
    with services.database.write() as session:
        for statement in statements:
            session.execute(statement)


def failing(services: Services, count: int, **values: Any) -> list[int]:
    certificates = add_lineages(services, count)
    add_deliveries(services, certificates, "files", **({"state": "failed", "detail": "disk full"} | values))
    return certificates


def open_kinds(client: FlaskClient) -> list[str]:
    return [alert["kind"] for alert in client.get("/alerts").json["data"] if alert["subject"] != "every worker"]


# Messages


def test_500_failing_deliveries_make_one_message(telling: Services, receiver: Receiver) -> None:
    failing(telling, 500)
    watch(telling)
    watch(telling)
    (message,) = receiver.messages
    assert message["title"] == "Certcourier at 127.0.0.1: 500 deliveries are failing"
    assert message["message"].count("disk full") == 5
    assert "and 495 more: `flask alerts list`" in message["message"]
    assert "flask deliveries retry --destination files" in message["message"]
    assert message["type"] == "warning"


def test_their_recovery_is_one_message_too(telling: Services, receiver: Receiver) -> None:
    failing(telling, 500)
    watch(telling)
    write(telling, update(Delivery).values(state="delivered"))
    watch(telling)
    recovery = receiver.messages[1]
    assert recovery["title"] == "Certcourier at 127.0.0.1: Over: 500 deliveries are failing"
    assert recovery["type"] == "success"
    watch(telling)
    assert len(receiver.messages) == 2


def test_more_of_a_kind_are_gathered_before_they_are_told(telling: Services, receiver: Receiver) -> None:
    certificates = add_lineages(telling, 3)
    add_deliveries(telling, certificates[:1], "files", state="failed", detail="disk full")
    watch(telling)
    for number in certificates[1:]:
        add_deliveries(telling, [number], "files", state="failed", detail="disk full")
        watch(telling)
    assert len(receiver.messages) == 1
    later(telling, minutes=15)
    watch(telling)
    assert receiver.messages[1]["title"].endswith(": 2 deliveries are failing")
    assert "3 such problems are open in all" in receiver.messages[1]["message"]


def test_what_comes_and_goes_is_no_storm(telling: Services, receiver: Receiver) -> None:
    failing(telling, 1)
    for state in ("failed", "delivered") * 5:
        write(telling, update(Delivery).values(state=state))
        watch(telling)
    assert [message["type"] for message in receiver.messages] == ["warning", "success"]


def test_a_problem_that_lasts_is_told_again_after_a_day(telling: Services, receiver: Receiver) -> None:
    failing(telling, 2)
    watch(telling)
    later(telling, hours=23)
    watch(telling)
    assert len(receiver.messages) == 1
    later(telling, hours=1)
    watch(telling)
    watch(telling)
    assert len(receiver.messages) == 2
    assert "This is a reminder" in receiver.messages[1]["message"]


def test_what_was_over_before_it_was_told_is_not_told(
    telling: Services, services: Services, receiver: Receiver
) -> None:
    failing(telling, 1)
    watch(services)
    write(telling, update(Delivery).values(state="delivered"))
    watch(telling)
    assert receiver.messages == []


def test_a_message_that_is_not_taken_is_sent_again(
    telling: Services, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(telling, 1)
    receiver.status = 500
    watch(telling)
    (job,) = jobs(telling, "send_notification")
    assert (job.state, job.attempts) == ("ready", 1)
    assert "notification address 1 (json) did not take the message" in str(job.last_error)
    receiver.status = 200
    make_due(telling, "send_notification")
    drain(telling)
    assert len(receiver.messages) == 1
    assert "very-secret" not in capsys.readouterr().err + str(vars(job))


def test_one_address_that_fails_does_not_make_another_hear_twice(telling: Services, receiver: Receiver) -> None:
    both = replace(telling, notifier=Notifier(["json://127.0.0.1:1/", receiver.url]))
    failing(both, 1)
    watch(both)
    make_due(both, "send_notification")
    drain(both)
    assert len(receiver.messages) == 1
    assert [job.state for job in jobs(both, "send_notification")] == ["ready", "done"]


def test_an_address_that_apprise_does_not_know_is_a_dead_job_without_its_secret(telling: Services) -> None:
    unknown = replace(telling, notifier=Notifier(["pigeon://very-secret@loft"]))
    failing(unknown, 1)
    watch(unknown)
    (job,) = jobs(unknown, "send_notification")
    assert job.state == "dead"
    assert "1 (pigeon) is none that Apprise knows" in str(job.last_error)
    assert "very-secret" not in str(vars(job))


def test_a_service_that_hangs_is_left_after_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        notifier = Notifier([f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=60"], seconds=2)
        with pytest.raises(NotificationFailedError, match="did not answer within 2 seconds"):
            notifier.send(notifier.addresses[0].id, "title", "body", good=True)


def test_a_dismissed_alarm_is_told_no_more_until_it_comes_back(
    telling: Services, app: Flask, client: FlaskClient, receiver: Receiver
) -> None:
    failing(telling, 1)
    watch(telling)
    with telling.database.read() as session:
        number = session.scalar(select(Alert.id))
    run(app, "alerts", "silence", str(number))
    assert open_kinds(client) == []
    assert "no open alert" in run(app, "alerts", "silence", str(number), status=1)
    later(telling, hours=25)
    watch(telling)
    assert len(receiver.messages) == 1
    write(telling, update(Delivery).values(state="delivered"))
    watch(telling)
    write(telling, update(Delivery).values(state="failed"))
    watch(telling)
    assert open_kinds(client) == ["delivery_failing"]


# The problems themselves


def test_a_delivery_that_waits_for_its_next_attempt_is_an_alarm_after_some_time(
    services: Services, client: FlaskClient
) -> None:
    failing(services, 1, state="failing")
    watch(services)
    assert open_kinds(client) == []
    write(services, update(Delivery).values(created_at=db_now(-1000)))
    watch(services)
    assert open_kinds(client) == ["delivery_failing"]


def test_a_failed_delivery_that_a_newer_certificate_overtook_is_none(services: Services, client: FlaskClient) -> None:
    (newest,) = add_lineages(services, 1, each=2)
    add_deliveries(services, [newest - 1], "files", state="failed", detail="disk full")
    add_deliveries(services, [newest], "files", state="delivered")
    watch(services)
    assert open_kinds(client) == []


def test_a_destination_that_is_not_named_any_more_is_no_problem(services: Services, client: FlaskClient) -> None:
    add_deliveries(services, add_lineages(services, 1), "gone", state="failed", detail="disk full")
    watch(services)
    assert open_kinds(client) == []


@pytest.mark.parametrize(
    ("days", "age", "found"),
    [
        (90, 66, []),  # due for a while
        (90, 69, ["renewal_overdue"]),
        (45, 27, []),
        (45, 29, ["renewal_overdue"]),
        (6.67, 4.0, []),
        (6.67, 4.3, ["renewal_overdue"]),
        (90, 95, ["renewal_overdue"]),  # expired
    ],
)
def test_a_renewal_is_overdue_by_a_share_of_the_lifetime(
    services: Services, client: FlaskClient, days: float, age: float, found: list[str]
) -> None:
    add_lineages(services, 1, days=days, age_days=age)
    watch(services)
    assert open_kinds(client) == found


def test_a_renewed_certificate_is_not_overdue(services: Services, client: FlaskClient) -> None:
    add_lineages(services, 1, age_days=30, each=2)
    watch(services)
    assert open_kinds(client) == []


def test_a_certificate_that_nobody_shall_renew_is_not_overdue(services: Services, client: FlaskClient) -> None:
    add_lineages(services, 1, age_days=80)
    write(services, update(Certificate).values(auto_renew=False))
    watch(services)
    assert open_kinds(client) == []


def order(**values: Any) -> Any:
    given = {
        "id": new_id("ord"),
        "account_id": ACCOUNT,
        "domain": "customer.example",
        "name": "www",
        "common_name": "www.customer.example",
        "san": [],
        "names": ["www.customer.example"],
        "auto_renew": True,
        "signature_algorithm": "ECDSA",
        "state": "failed",
        "failure": {"type": "issuance-failed", "detail": "CAA forbids it"},
    }
    return insert(Order).values(**(given | values))


def test_an_issuance_that_failed_is_an_alarm_until_it_is_ordered_again(services: Services, client: FlaskClient) -> None:
    write(services, order(certificate_id=1))
    watch(services)
    (alert,) = [one for one in client.get("/alerts").json["data"] if one["kind"] == "issuance_failed"]
    assert alert["detail"] == "CAA forbids it"
    write(services, order(id=new_id("ord"), state="fetched", failure=None))
    watch(services)
    assert open_kinds(client) == []


def test_an_order_that_the_client_got_wrong_is_none(services: Services, client: FlaskClient) -> None:
    write(services, order(failure={"type": "domain-not-in-account", "detail": "no such domain"}))
    watch(services)
    assert open_kinds(client) == []


def test_endpoints_that_are_stale_or_unreachable_are_alarms(services: Services, client: FlaskClient) -> None:
    endpoint = Endpoint(name="web", address="127.0.0.1:1")
    proving = replace(services, endpoints={"web": endpoint})
    certificates = add_lineages(services, 3)
    states = zip(certificates, ("stale", "unreachable", "served"), strict=True)
    rows = [
        {"lineage_id": number // 10, "endpoint": "web", "certificate_id": number, "state": state, "detail": "seen"}
        for number, state in states
    ]
    write(services, insert(EndpointCheck).values(rows))
    watch(proving)
    assert open_kinds(client) == ["endpoint_stale", "endpoint_unreachable"]


def test_a_suppressed_webhook_is_told_although_it_was_mended_at_once(
    services: Services, client: FlaskClient, simulator: Simulator
) -> None:
    register_webhook(services)
    assert open_kinds(client) == []
    for hook in simulator.api("GET", "/webhooks"):
        if hook["url"] == services.webhook_url:
            simulator.api("DELETE", f"/webhooks/{hook['id']}")
    register_webhook(services)
    watch(services)
    assert open_kinds(client) == ["webhook_lost"]


@pytest.mark.parametrize(("started", "found"), [(-2000, ["webhook_unchecked"]), (-60, [])])
def test_a_webhook_that_cannot_be_looked_at_is_an_alarm_once_a_worker_has_tried(
    services: Services, client: FlaskClient, started: float, found: list[str]
) -> None:
    write(services, worker(-1, started))
    register_webhook(services)
    with services.database.write() as session:
        seen = read_now(session) - timedelta(minutes=16)
        WEBHOOK_CHECKED_AT.set(session, seen)
    watch(services)
    assert open_kinds(client) == found


def quota(**values: Any) -> Any:
    given = {
        "account_id": ACCOUNT,
        "call_limit": 2400,
        "remaining": 2000,
        "in_flight": 0,
        "unknown_left": 1,
        "window_seconds": 3600,
        "reset_at": db_now(3000),
    }
    return [delete(Quota), insert(Quota).values(**(given | values))]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, []),
        ({"remaining": 40}, ["quota_low"]),
        ({"remaining": 0, "reset_at": db_now(600)}, []),  # soon over
        ({"blocked_until": db_now(600), "blocked_reason": "quota exceeded"}, ["quota_stopped"]),
        (
            {"blocked_until": db_now(600), "blocked_reason": "token rejected", "blocked_token": digest_token(TOKEN)},
            ["token_rejected"],
        ),
        ({"blocked_until": db_now(600), "blocked_reason": "token rejected", "blocked_token": "another's"}, []),
    ],
)
def test_quota_and_token(services: Services, client: FlaskClient, values: dict[str, Any], found: list[str]) -> None:
    write(services, *quota(**values))
    watch(services)
    assert open_kinds(client) == found


def test_a_quota_that_is_low_every_hour_is_one_alarm(telling: Services, receiver: Receiver) -> None:
    for _ in range(5):
        write(telling, *quota(remaining=0))
        watch(telling)
        write(telling, *quota())
        watch(telling)
        later(telling, hours=1)
    assert len(receiver.messages) == 1
    later(telling, hours=2)
    watch(telling)
    assert [message["type"] for message in receiver.messages] == ["warning", "success"]


def ended(kind: str, state: str, **values: Any) -> Any:
    return insert(Job).values(**({"kind": kind, "state": state, "args": {}, "finished_at": db_now()} | values))


def test_a_dead_job_is_an_alarm_until_it_is_retried(services: Services, client: FlaskClient) -> None:
    write(
        services,
        ended("fetch_certificate", "dead", args={"certificate_id": 7}, last_error="key does not fit"),
        ended("deliver", "dead", last_error="told by its delivery"),
        ended("reconcile", "dead", last_error="an hour ago"),
        ended("reconcile", "done"),
    )
    watch(services)
    (alert,) = [one for one in client.get("/alerts").json["data"] if one["kind"] == "job_dead"]
    assert (alert["subject"], alert["detail"]) == ("fetch_certificate certificate_id=7", "key does not fit")
    write(services, update(Job).where(Job.kind == "fetch_certificate").values(state="done"))
    watch(services)
    assert open_kinds(client) == []


def worker(heard: float, started: float) -> Any:
    values = {
        "id": new_id("wrk"),
        "host": "h",
        "pid": 1,
        "last_heartbeat_at": db_now(heard),
        "started_at": db_now(started),
    }
    return insert(Worker).values(**values)


@pytest.mark.parametrize(
    ("workers", "found"),
    [
        ([(-1, -900)], []),
        ([(-1, -900), (-300, -900)], ["worker_silent"]),
        ([(-1, -200), (-300, -900)], []),  # replaced
        ([(-1, -200), (-300, -900), (-310, -900)], ["worker_silent"]),  # one of two replaced
    ],
)
def test_a_worker_that_fell_silent_and_was_not_replaced(
    services: Services, client: FlaskClient, workers: list[tuple[float, float]], found: list[str]
) -> None:
    write(services, *(worker(heard, started) for heard, started in workers))
    with services.database.write() as session:
        WEBHOOK_CHECKED_AT.set(session, datetime(2999, 1, 1, tzinfo=UTC))
    watch(services)
    assert open_kinds(client) == found


def test_that_no_worker_is_at_work_is_seen_without_one(client: FlaskClient, services: Services) -> None:
    (alert,) = client.get("/alerts").json["data"]
    assert (alert["id"], alert["kind"], alert["subject"]) == (None, "worker_silent", "every worker")
    write(services, worker(-1, -1))
    assert client.get("/alerts").json["data"] == []


def test_every_problem_has_its_kind(services: Services) -> None:
    """A finder that names a kind without an entry would raise when it is told."""
    source = Path(rules.__file__).read_text()
    named = {kind for kind in rules.KINDS if f'"{kind}"' in source.partition("def evaluate_rules")[2]}
    assert named | {"endpoint_stale", "endpoint_unreachable"} == set(rules.KINDS)
    assert services.endpoints == {}


def test_problems_are_looked_for_every_minute() -> None:
    assert JobKind.EVALUATE_ALERTS.definition.period_seconds == 60


# Commands and settings


def test_monitoring_sees_alarms_by_the_exit_status(app: Flask, services: Services) -> None:
    write(services, worker(-1, -1))
    assert "No open alerts" in run(app, "alerts", "list", "--fail")
    failing(services, 1)
    watch(services)
    output = run(app, "alerts", "list", "--fail", status=1)
    assert "delivery_failing  www.customer1.example to files" in output
    assert "What to do: put it right" in output
    assert '"kind": "delivery_failing"' in run(app, "alerts", "list", "--json")


def test_nothing_is_shown_without_a_token(anonymous: FlaskClient) -> None:
    assert anonymous.get("/alerts").status_code == 401
