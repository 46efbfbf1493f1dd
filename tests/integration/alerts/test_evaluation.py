"""Alerts are raised, notified once, reminded of and resolved; by the real Apprise to a real receiver."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, insert, select, update

from app.alerts import rules
from app.alerts.evaluation import active_alerts
from app.alerts.notifications import past_tense
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
def notifying(services: Services, receiver: Receiver) -> Services:
    return replace(services, notifier=Notifier([receiver.url]))


def evaluate(services: Services) -> None:
    """What happens every minute, and the messages that follow."""
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.EVALUATE_ALERTS)
    drain(services)


def let_time_pass(services: Services, **ago: float) -> None:
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
    return [alert["kind"] for alert in client.get("/alerts").json["data"] if alert["kind"] != "no_worker"]


# Messages


def test_500_failing_deliveries_make_one_message(notifying: Services, receiver: Receiver) -> None:
    failing(notifying, 500)
    evaluate(notifying)
    evaluate(notifying)
    (message,) = receiver.messages
    assert message["title"] == "Certcourier at 127.0.0.1: 500 deliveries are failing or failed permanently"
    assert message["message"].count("disk full") == 5
    assert "and 495 more: `certcourier alerts list`" in message["message"]
    assert "certcourier deliveries retry --destination files" in message["message"]
    assert message["type"] == "warning"


def test_their_recovery_is_one_message(notifying: Services, receiver: Receiver) -> None:
    failing(notifying, 500)
    evaluate(notifying)
    write(notifying, update(Delivery).values(state="delivered"))
    evaluate(notifying)
    recovery = receiver.messages[1]
    assert recovery["title"] == "Certcourier at 127.0.0.1: Resolved: 500 deliveries were failing or failed permanently"
    assert recovery["type"] == "success"
    evaluate(notifying)
    assert len(receiver.messages) == 2


def test_more_alerts_of_a_kind_are_grouped(notifying: Services, receiver: Receiver) -> None:
    certificates = add_lineages(notifying, 3)
    add_deliveries(notifying, certificates[:1], "files", state="failed", detail="disk full")
    evaluate(notifying)
    for certificate_id in certificates[1:]:
        add_deliveries(notifying, [certificate_id], "files", state="failed", detail="disk full")
        evaluate(notifying)
    assert len(receiver.messages) == 1
    let_time_pass(notifying, minutes=15)
    evaluate(notifying)
    assert receiver.messages[1]["title"].endswith(": 2 deliveries are failing or failed permanently")
    assert "3 open in total" in receiver.messages[1]["message"]


def test_a_flapping_alert_sends_two_messages(notifying: Services, receiver: Receiver) -> None:
    failing(notifying, 1)
    for state in ("failed", "delivered") * 5:
        write(notifying, update(Delivery).values(state=state))
        evaluate(notifying)
    assert [message["type"] for message in receiver.messages] == ["warning", "success"]


def test_a_lasting_alert_is_repeated_after_a_day(notifying: Services, receiver: Receiver) -> None:
    failing(notifying, 2)
    evaluate(notifying)
    let_time_pass(notifying, hours=23)
    evaluate(notifying)
    assert len(receiver.messages) == 1
    let_time_pass(notifying, hours=1)
    evaluate(notifying)
    evaluate(notifying)
    assert len(receiver.messages) == 2
    assert "Reminder" in receiver.messages[1]["message"]


def test_an_alert_resolved_before_its_notification_sends_nothing(
    notifying: Services, services: Services, receiver: Receiver
) -> None:
    failing(notifying, 1)
    evaluate(services)
    write(notifying, update(Delivery).values(state="delivered"))
    evaluate(notifying)
    assert receiver.messages == []


def test_a_failed_notification_is_retried(
    notifying: Services, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(notifying, 1)
    receiver.status = 500
    evaluate(notifying)
    (job,) = jobs(notifying, "send_notification")
    assert (job.state, job.attempts) == ("ready", 1)
    assert "notification address 1 (json) did not accept the message" in str(job.last_error)
    receiver.status = 200
    make_due(notifying, "send_notification")
    drain(notifying)
    assert len(receiver.messages) == 1
    assert "very-secret" not in capsys.readouterr().err + str(vars(job))


def test_a_failing_address_does_not_duplicate_messages_to_another(notifying: Services, receiver: Receiver) -> None:
    both = replace(notifying, notifier=Notifier(["json://127.0.0.1:1/", receiver.url]))
    failing(both, 1)
    evaluate(both)
    make_due(both, "send_notification")
    drain(both)
    assert len(receiver.messages) == 1
    assert [job.state for job in jobs(both, "send_notification")] == ["ready", "done"]


def test_an_address_that_apprise_does_not_know_is_a_dead_job_without_its_secret(notifying: Services) -> None:
    unknown = replace(notifying, notifier=Notifier(["pigeon://very-secret@loft"]))
    failing(unknown, 1)
    evaluate(unknown)
    (job,) = jobs(unknown, "send_notification")
    assert job.state == "dead"
    assert "1 (pigeon) is not supported by Apprise" in str(job.last_error)
    assert "very-secret" not in str(vars(job))


def test_a_hanging_notification_service_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        notifier = Notifier([f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=60"], seconds=2)
        with pytest.raises(NotificationFailedError, match="did not answer within 2 seconds"):
            notifier.send(notifier.addresses[0].id, "title", "body", good=True)


def test_a_silenced_alert_stays_silent_until_it_is_raised_again(
    notifying: Services, app: Flask, client: FlaskClient, receiver: Receiver
) -> None:
    failing(notifying, 1)
    evaluate(notifying)
    with notifying.database.read() as session:
        alert_id = session.scalar(select(Alert.id))
    run(app, "alerts", "silence", str(alert_id))
    assert open_kinds(client) == []
    assert "no open alert" in run(app, "alerts", "silence", str(alert_id), status=1)
    let_time_pass(notifying, hours=25)
    evaluate(notifying)
    assert len(receiver.messages) == 1
    write(notifying, update(Delivery).values(state="delivered"))
    evaluate(notifying)
    write(notifying, update(Delivery).values(state="failed"))
    evaluate(notifying)
    assert open_kinds(client) == ["delivery_failing"]


# The rules


def test_a_failing_delivery_raises_an_alert_after_a_while(services: Services, client: FlaskClient) -> None:
    failing(services, 1, state="failing")
    evaluate(services)
    assert open_kinds(client) == []
    write(services, update(Delivery).values(created_at=db_now(-1000)))
    evaluate(services)
    assert open_kinds(client) == ["delivery_failing"]


def test_a_failed_delivery_with_a_newer_one_delivered_raises_no_alert(services: Services, client: FlaskClient) -> None:
    (newest,) = add_lineages(services, 1, each=2)
    add_deliveries(services, [newest - 1], "files", state="failed", detail="disk full")
    add_deliveries(services, [newest], "files", state="delivered")
    evaluate(services)
    assert open_kinds(client) == []


def test_a_destination_that_is_no_longer_configured_raises_no_alert(services: Services, client: FlaskClient) -> None:
    add_deliveries(services, add_lineages(services, 1), "gone", state="failed", detail="disk full")
    evaluate(services)
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
    evaluate(services)
    assert open_kinds(client) == found


def test_a_renewed_certificate_is_not_overdue(services: Services, client: FlaskClient) -> None:
    add_lineages(services, 1, age_days=30, each=2)
    evaluate(services)
    assert open_kinds(client) == []


def test_a_certificate_with_auto_renewal_off_raises_renewal_off(services: Services, client: FlaskClient) -> None:
    add_lineages(services, 1, age_days=80)
    write(services, update(Certificate).values(auto_renew=False))
    evaluate(services)
    assert open_kinds(client) == ["renewal_off"]


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


def test_a_failed_order_raises_an_alert_until_it_is_ordered_again(services: Services, client: FlaskClient) -> None:
    write(services, order(certificate_id=1))
    evaluate(services)
    (alert,) = [alert for alert in client.get("/alerts").json["data"] if alert["kind"] == "issuance_failed"]
    assert alert["detail"] == "CAA forbids it"
    write(services, order(id=new_id("ord"), state="fetched", failure=None))
    evaluate(services)
    assert open_kinds(client) == []


def test_an_order_that_only_its_client_can_correct_raises_no_alert(services: Services, client: FlaskClient) -> None:
    write(services, order(failure={"type": "domain-not-in-account", "detail": "no such domain"}))
    evaluate(services)
    assert open_kinds(client) == []


def test_stale_and_unreachable_endpoints_raise_alerts(services: Services) -> None:
    endpoint = Endpoint(name="web", address="127.0.0.1:1")
    checking = replace(services, endpoints={"web": endpoint})
    certificates = add_lineages(services, 3)
    states = zip(certificates, ("stale", "unreachable", "served"), strict=True)
    rows = [
        {
            "lineage_id": certificate_id // 10,
            "endpoint": "web",
            "certificate_id": certificate_id,
            "state": state,
            "detail": "seen",
        }
        for certificate_id, state in states
    ]
    write(services, insert(EndpointCheck).values(rows))
    found = [alert.kind for alert in active_alerts(checking, area="endpoints")]
    assert found == ["endpoint_stale", "endpoint_unreachable"]


def test_a_lost_webhook_raises_an_alert_although_it_was_repaired_at_once(
    services: Services, client: FlaskClient, simulator: Simulator
) -> None:
    register_webhook(services)
    assert open_kinds(client) == []
    for hook in simulator.api("GET", "/webhooks"):
        if hook["url"] == services.webhook_url:
            simulator.api("DELETE", f"/webhooks/{hook['id']}")
    register_webhook(services)
    evaluate(services)
    assert open_kinds(client) == ["webhook_lost"]


@pytest.mark.parametrize(("started", "found"), [(-2000, ["webhook_unchecked"]), (-60, [])])
def test_an_unchecked_webhook_raises_an_alert_once_a_worker_had_time(
    services: Services, client: FlaskClient, started: float, found: list[str]
) -> None:
    write(services, worker(-1, started))
    register_webhook(services)
    with services.database.write() as session:
        seen = read_now(session) - timedelta(minutes=16)
        WEBHOOK_CHECKED_AT.set(session, seen)
    evaluate(services)
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
        ({"blocked_until": db_now(600), "blocked_reason": "quota exceeded"}, ["calls_paused"]),
        (
            {"blocked_until": db_now(600), "blocked_reason": "token rejected", "blocked_token": digest_token(TOKEN)},
            ["token_rejected"],
        ),
        ({"blocked_until": db_now(600), "blocked_reason": "token rejected", "blocked_token": "another's"}, []),
    ],
)
def test_quota_and_token(services: Services, client: FlaskClient, values: dict[str, Any], found: list[str]) -> None:
    write(services, *quota(**values))
    evaluate(services)
    assert open_kinds(client) == found


def test_a_quota_that_is_low_every_hour_is_one_alert(notifying: Services, receiver: Receiver) -> None:
    for _ in range(5):
        write(notifying, *quota(remaining=0))
        evaluate(notifying)
        write(notifying, *quota())
        evaluate(notifying)
        let_time_pass(notifying, hours=1)
    assert len(receiver.messages) == 1
    let_time_pass(notifying, hours=2)
    evaluate(notifying)
    assert [message["type"] for message in receiver.messages] == ["warning", "success"]


def ended(kind: str, state: str, **values: Any) -> Any:
    return insert(Job).values(**({"kind": kind, "state": state, "args": {}, "finished_at": db_now()} | values))


def test_a_dead_job_raises_an_alert_until_it_is_retried(services: Services, client: FlaskClient) -> None:
    write(
        services,
        ended("fetch_certificate", "dead", args={"certificate_id": 7}, last_error="key does not match"),
        ended("deliver", "dead", last_error="reported by its delivery"),
        ended("reconcile", "dead", last_error="an hour ago"),
        ended("reconcile", "done"),
    )
    evaluate(services)
    (alert,) = [alert for alert in client.get("/alerts").json["data"] if alert["kind"] == "job_failed"]
    assert (alert["subject"], alert["detail"]) == ("fetch_certificate certificate_id=7", "key does not match")
    write(services, update(Job).where(Job.kind == "fetch_certificate").values(state="done"))
    evaluate(services)
    assert open_kinds(client) == []


def worker(heartbeat: float, started: float) -> Any:
    values = {
        "id": new_id("wrk"),
        "host": "h",
        "pid": 1,
        "last_heartbeat_at": db_now(heartbeat),
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
    write(services, *(worker(heartbeat, started) for heartbeat, started in workers))
    with services.database.write() as session:
        WEBHOOK_CHECKED_AT.set(session, datetime(2999, 1, 1, tzinfo=UTC))
    evaluate(services)
    assert open_kinds(client) == found


def test_no_worker_is_reported_without_a_worker(client: FlaskClient, services: Services) -> None:
    (alert,) = client.get("/alerts").json["data"]
    assert (alert["id"], alert["kind"], alert["severity"]) == (None, "no_worker", "critical")
    write(services, worker(-1, -1))
    assert client.get("/alerts").json["data"] == []


def test_every_kind_has_titles_in_the_present_and_the_past() -> None:
    for rule in rules.RULES.values():
        assert rule.title(2) == (rule.many or rule.one).format(2)
        assert rule.title(5, most=4).count("4+") == (rule.many is not None)
        assert not re.search(r" (is|are|cannot|serves?|rejects|will) ", past_tense(rule.title(2)))


def test_alerts_are_evaluated_every_minute() -> None:
    assert JobKind.EVALUATE_ALERTS.definition.period_seconds == 60


# Commands and settings


def test_the_exit_status_shows_active_alerts(app: Flask, services: Services) -> None:
    write(services, worker(-1, -1))
    assert "No open alerts" in run(app, "alerts", "list", "--fail")
    failing(services, 1)
    evaluate(services)
    output = run(app, "alerts", "list", "--fail", status=1)
    assert "critical  delivery_failing  www.customer1.example to files" in output
    assert "Remedy: fix the destination" in output
    assert '"kind": "delivery_failing"' in run(app, "alerts", "list", "--json")


def test_nothing_is_shown_without_a_token(anonymous: FlaskClient) -> None:
    assert anonymous.get("/alerts").status_code == 401
