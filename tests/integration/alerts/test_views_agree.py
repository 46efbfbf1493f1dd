"""Every view names the same alerts for the same database: the rules decide, the views only show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, insert, update

from app.alerts.rules import RULES, evaluate_rules, rule_context
from app.auth.tokens import create_token
from app.db.clock import db_now, read_now
from app.db.installation_state import MISSED_EVENTS, MissedEvents
from app.db.models import (
    Alert,
    Certificate,
    Delivery,
    Domain,
    EndpointCheck,
    Job,
    Order,
    Quota,
    SuspendedDestination,
    Worker,
    new_id,
)
from app.dnsimple.budget import digest_token
from app.doctor.checks import CHECKS
from app.jobs.queue import ACCOUNT_BLOCKED
from app.services import Services
from config import Settings
from tests.support.harness import ACCOUNT, TOKEN, make_settings
from tests.support.records import add_deliveries, add_lineages

type Build = Callable[[Services], None]

_DESTINATIONS = """
[[destination]]
name = "files"
kind = "files"
path = "{folder}/certificates"

[[endpoint]]
name = "web"
address = "127.0.0.1:1"
after = ["files"]
"""


@pytest.fixture
def settings(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Without a DNSimple: no view needs it to show alerts."""
    file = tmp_path / "destinations.toml"
    file.write_text(_DESTINATIONS.format(folder=tmp_path))
    more = getattr(request, "param", {})
    return make_settings(
        database_url,
        "http://127.0.0.1:9",
        tmp_path / "var",
        destinations_file=file,
        metrics_cache_seconds=0.0,
        **more,
    )


def write(services: Services, *statements: Any) -> None:
    with services.database.write() as session:
        for statement in statements:
            session.execute(statement)


def worker(*, heartbeat: float = -1, started: float = -10) -> Any:
    values = {"host": "h", "pid": 1, "last_heartbeat_at": db_now(heartbeat), "started_at": db_now(started)}
    return insert(Worker).values(id=new_id("wrk"), **values)


def workers(*seen: tuple[float, float]) -> Build:
    """Instead of the one that runs: their last heartbeats and starts, in seconds from now."""
    rows = [worker(heartbeat=heartbeat, started=started) for heartbeat, started in seen]
    return lambda services: write(services, delete(Worker), *rows)


def lineage(*, days: float = 90, left: float, **values: Any) -> Build:
    """A certificate of so many days, so many of which are left."""

    def build(services: Services) -> None:
        add_lineages(services, 1, days=days, age_days=days - left)
        if values:
            write(services, update(Certificate).values(**values))

    return build


def domain_left(services: Services) -> None:
    lineage(left=10)(services)
    write(services, delete(Domain))


def renewed(services: Services) -> None:
    add_lineages(services, 1, age_days=25, each=2)


def delivery(state: str, *, detail: str | None = "disk full", age: float = 10, destination: str = "files") -> Build:
    def build(services: Services) -> None:
        certificates = add_lineages(services, 1)
        add_deliveries(services, certificates, destination, state=state, detail=detail)
        write(services, update(Delivery).values(created_at=db_now(-age)))

    return build


def overtaken(services: Services) -> None:
    (newest,) = add_lineages(services, 1, each=2)
    add_deliveries(services, [newest - 1], "files", state="failed", detail="disk full")
    add_deliveries(services, [newest], "files", state="delivered")


def suspended(services: Services) -> None:
    write(services, insert(SuspendedDestination).values(destination="files", reason="410 Gone"))


def endpoint(state: str) -> Build:
    def build(services: Services) -> None:
        (certificate_id,) = add_lineages(services, 1)
        check = {"lineage_id": 1, "endpoint": "web", "certificate_id": certificate_id, "state": state}
        write(services, insert(EndpointCheck).values(**check))

    return build


def quota(**values: Any) -> Build:
    given = {
        "account_id": ACCOUNT,
        "call_limit": 2400,
        "remaining": 2000,
        "in_flight": 0,
        "unknown_left": 1,
        "window_seconds": 3600,
        "reset_at": db_now(3000),
    }
    return lambda services: write(services, insert(Quota).values(**(given | values)))


def job(kind: str, state: str, **values: Any) -> Build:
    given: dict[str, Any] = {
        "kind": kind,
        "state": state,
        "args": {},
        "finished_at": db_now() if state in {"dead", "done"} else None,
    }
    return lambda services: write(services, insert(Job).values(**(given | values)))


def order(state: str = "failed", **values: Any) -> Build:
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
        "state": state,
        "failure": {"type": "issuance-failed", "detail": "CAA forbids it"} if state == "failed" else None,
    }
    return lambda services: write(services, insert(Order).values(**(given | values)))


def events_missed(*, hours_ago: float) -> Build:
    def build(services: Services) -> None:
        with services.database.write() as session:
            MISSED_EVENTS.set(session, MissedEvents(read_now(session) - timedelta(hours=hours_ago), "suppressed"))

    return build


def both(*builds: Build) -> Build:
    def build(services: Services) -> None:
        for one in builds:
            one(services)

    return build


def silenced(services: Services) -> None:
    delivery("failed")(services)
    alert = {"kind": "delivery_failing", "subject": "www.customer1.example to files", "since": db_now()}
    write(services, insert(Alert).values(**alert, detail="", remedy="", silenced_at=db_now()))


_CHECK_FAILS = job("register_webhook", "ready", key="register_webhook", last_error="DNSimple: 503")

SITUATIONS: dict[str, tuple[Build, list[str]]] = {
    "nothing is wrong": (lambda _: None, []),
    "auto-renewal off, 40 of 90 days left": (lineage(left=40, auto_renew=False), []),
    "auto-renewal off, 10 of 90 days left": (lineage(left=10, auto_renew=False), ["renewal_off"]),
    "auto-renewal off, expired yesterday": (lineage(left=-1, auto_renew=False), ["renewal_off"]),
    "auto-renewal unknown, 10 of 90 days left": (lineage(left=10, auto_renew=None), ["renewal_overdue"]),
    "25 of 90 days left": (lineage(left=25), []),
    "20 of 90 days left": (lineage(left=20), ["renewal_overdue"]),
    "9 of 90 days left": (lineage(left=9), ["renewal_overdue"]),
    "1.5 of 6 days left": (lineage(days=6, left=1.5), ["renewal_overdue"]),
    "expired six days ago": (lineage(left=-6), ["renewal_overdue"]),
    "expired too long ago to be in use": (lineage(left=-8), []),
    "renewed": (renewed, []),
    "the domain left the account": (domain_left, []),
    "the domain is unknown": (lineage(left=10, domain_id=None), ["renewal_overdue"]),
    "a delivery failed just now": (delivery("failing"), []),
    "a delivery has been failing for a while": (delivery("failing", age=1000), ["delivery_failing"]),
    "a delivery waits without an error": (delivery("pending", detail=None, age=1000), []),
    "a delivery failed permanently": (delivery("failed"), ["delivery_failing"]),
    "a newer certificate was delivered": (overtaken, []),
    "a failed delivery to a removed destination": (delivery("failed", destination="removed"), []),
    "a silenced failed delivery": (silenced, []),
    "a suspended destination": (suspended, ["destination_suspended"]),
    "an endpoint serves the wrong certificate": (endpoint("stale"), ["endpoint_stale"]),
    "an endpoint is unreachable": (endpoint("unreachable"), ["endpoint_unreachable"]),
    "an endpoint is served": (endpoint("served"), []),
    "220 of 2,400 calls left": (quota(remaining=220), []),
    "100 of 2,400 calls left": (quota(remaining=100), []),
    "40 of 2,400 calls left": (quota(remaining=40), ["quota_low"]),
    "40 of 2,400 calls left, soon reset": (quota(remaining=40, reset_at=db_now(300)), []),
    "40 of 2,400 calls left, window over": (quota(remaining=40, reset_at=db_now(-1)), []),
    "calls are paused": (quota(blocked_until=db_now(600), blocked_reason="quota exceeded"), ["calls_paused"]),
    "our token is rejected": (
        quota(blocked_until=db_now(600), blocked_reason="401", blocked_token=digest_token(TOKEN)), ["token_rejected"],
    ),
    "another token is rejected": (quota(blocked_until=db_now(600), blocked_reason="401", blocked_token="0"), []),
    "an invoice is unpaid": (
        job("refetch_key", "ready", snoozes=1, last_error=f"{ACCOUNT_BLOCKED}402 unpaid"), ["account_blocked"],
    ),
    "an invoice was unpaid, and the next call failed otherwise": (
        job("refetch_key", "ready", snoozes=2, last_error="DNSimple: 503"), [],
    ),
    "an invoice was unpaid, and the next call succeeded": (
        job("refetch_key", "done", snoozes=1, last_error=f"{ACCOUNT_BLOCKED}402 unpaid"), [],
    ),
    "a dead job": (job("refetch_key", "dead", last_error="no key"), ["job_failed"]),
    "a dead job of an unknown kind": (job("from_the_future", "dead"), ["job_failed"]),
    "a dead delivery job of a removed destination": (job("deliver", "dead"), []),
    "a dead import": (job("import_account", "dead"), []),
    "a periodic job died and succeeded since": (both(job("prune", "dead"), job("prune", "done")), []),
    "jobs are late": (job("deliver", "ready", run_at=db_now(-700)), ["jobs_late"]),
    "jobs are due": (job("deliver", "ready", run_at=db_now(-60)), []),
    "an order failed": (order(), ["issuance_failed"]),
    "an order failed and was ordered again": (both(order(id="ord_1"), order("pending", id="ord_2")), []),
    "an order that only its client can correct": (order(failure={"type": "plan-limit", "detail": ""}), []),
    "the webhook was suppressed": (events_missed(hours_ago=1), ["webhook_lost"]),
    "the webhook was suppressed two days ago": (events_missed(hours_ago=30), []),
    "the webhook cannot be checked, since just now": (both(workers((-1, -60)), _CHECK_FAILS), []),
    "the webhook cannot be checked": (both(workers((-1, -2000)), _CHECK_FAILS), ["webhook_unchecked"]),
    "the only worker is silent for 20 seconds": (workers((-20, -300)), []),
    "the only worker is silent for 45 seconds": (workers((-45, -300)), ["no_worker"]),
    "no worker was ever started": (workers(), ["no_worker"]),
    "one of two workers is silent": (workers((-1, -300), (-45, -300)), ["worker_silent"]),
    "a silent worker was replaced": (workers((-1, -20), (-45, -300)), []),
    "several things are wrong": (
        both(delivery("failed"), suspended, quota(remaining=0), workers((-45, -300))),
        ["delivery_failing", "destination_suspended", "no_worker", "quota_low"],
    ),
}  # fmt: skip


@pytest.fixture
def views(app: Flask, services: Services, client: FlaskClient) -> dict[str, Callable[[], set[str]]]:
    """The alert kinds that each view names."""
    browser = signed_in(app, services)

    def by_command(*arguments: str, field: str) -> set[str]:
        result = app.test_cli_runner().invoke(args=[*arguments, "--json"])
        return {row[field] for row in json.loads(result.stdout) if row[field]}

    def by_metrics() -> set[str]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = [one for family in families for one in family.samples if one.name == "certcourier_alerts"]
        assert {one.labels["kind"] for one in samples} == set(RULES), "a zero for every kind that is not active"
        return {one.labels["kind"] for one in samples if one.value}

    areas = [option for area in {rule.area for rule in RULES.values()} for option in ("--only", area)]
    return {
        "dashboard": lambda: set(re.findall(r'data-alert="(\w+)"', browser.get("/dashboard").text)),
        "API": lambda: {alert["kind"] for alert in client.get("/alerts").json["data"]},
        "command": lambda: by_command("alerts", "list", field="kind"),
        "doctor": lambda: by_command("doctor", *areas, field="alert"),
        "metrics": by_metrics,
    }


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_view_names_the_same_alerts(
    services: Services, anonymous: FlaskClient, views: dict[str, Callable[[], set[str]]], situation: str
) -> None:
    check_views(services, anonymous, views, situation)


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "situation", ["9 of 90 days left", "a dead job", "an invoice is unpaid", "several things are wrong"]
)
def test_every_view_names_the_same_alerts_on_either_database(
    services: Services, anonymous: FlaskClient, views: dict[str, Callable[[], set[str]]], situation: str
) -> None:
    check_views(services, anonymous, views, situation)


def check_views(
    services: Services, anonymous: FlaskClient, views: dict[str, Callable[[], set[str]]], situation: str
) -> None:
    build, expected = SITUATIONS[situation]
    write(services, worker())
    build(services)
    if situation != "a silenced failed delivery":
        with services.database.read() as session:
            found = evaluate_rules(rule_context(services, session))
        assert {alert.kind for alert in found} == set(expected)
    assert {name: sorted(view()) for name, view in views.items()} == dict.fromkeys(views, sorted(expected))
    ready = anonymous.get("/readyz")
    blocking = {kind for kind in expected if RULES[kind].blocks_readiness}
    assert (ready.status_code, ready.json["checks"]["worker"] != "ok") == (503 if blocking else 200, bool(blocking))


@pytest.mark.parametrize("settings", [{"renewal_policy": "without_auto_renew"}], indirect=True)
def test_with_a_renewal_policy_a_renewal_of_ours_can_be_overdue(
    services: Services, views: dict[str, Callable[[], set[str]]]
) -> None:
    write(services, worker())
    lineage(left=10, auto_renew=False)(services)
    assert {name: view() for name, view in views.items()} == {name: {"renewal_overdue"} for name in views}


def test_a_domain_restricted_token_sees_only_alerts_about_its_domains(app: Flask, services: Services) -> None:
    write(services, delete(Worker))
    certificates = add_lineages(services, 2)
    add_deliveries(services, certificates, "files", state="failed", detail="disk full")
    browser = app.test_client()
    _, token = create_token(services.database, "Ann", ("read",), domains=["customer1.example"])
    browser.post("/dashboard/sign-in", data={"token": token})
    page = browser.get("/dashboard").text
    assert re.findall(r'data-alert="(\w+)"', page) == ["delivery_failing"]
    assert "www.customer1.example to files" in page
    assert "customer2" not in page


@pytest.mark.parametrize(
    ("situation", "level"),
    [
        ("25 of 90 days left", "good"),
        ("20 of 90 days left", "busy"),
        ("9 of 90 days left", "bad"),
        ("auto-renewal off, 10 of 90 days left", "busy"),
        ("auto-renewal off, expired yesterday", "busy"),
        ("expired six days ago", "bad"),
        ("expired too long ago to be in use", "plain"),
        ("the domain left the account", "good"),
    ],
)
def test_a_lifetime_bar_is_as_severe_as_the_alert(app: Flask, services: Services, situation: str, level: str) -> None:
    SITUATIONS[situation][0](services)
    browser = signed_in(app, services)
    table = browser.get("/dashboard/certificates").text
    (page,) = re.findall(r'href="(/dashboard/certificates/\d+)"', table)
    for text in (table, browser.get(page).text):
        assert re.findall(r'class="bar (\w+)"', text) == [level]


@pytest.mark.parametrize(
    ("situation", "count", "health"),
    [
        ("a delivery failed just now", "1", "failing"),
        ("a delivery failed permanently", "1", "failed"),
        ("a newer certificate was delivered", "0", "ok"),
        ("a failed delivery to a removed destination", "0", "ok"),
        ("a delivery waits without an error", "0", "ok"),
    ],
)
def test_counts_and_badges_exclude_the_deliveries_that_raise_no_alert(
    app: Flask, services: Services, situation: str, count: str, health: str
) -> None:
    SITUATIONS[situation][0](services)
    browser = signed_in(app, services)
    tile = re.search(r"Unsuccessful deliveries</a></dt><dd>(\d+)</dd>", browser.get("/dashboard").text)
    assert tile is not None
    assert tile[1] == count
    page = browser.get("/dashboard/destinations").text
    assert re.findall(r'</span></th>\s*<td><span class="badge \w+"><span [^>]+>.</span> (\w+)</span>', page) == [health]
    assert ("No unsuccessful deliveries." in page) == (count == "0")
    found = browser.get("/dashboard/certificates?unsuccessful=1").text
    assert ("No matching certificates." in found) == (count == "0")


@pytest.mark.parametrize(
    ("situation", "states"),
    [
        ("the only worker is silent for 20 seconds", ["running"]),
        ("the only worker is silent for 45 seconds", ["no heartbeat"]),
        ("one of two workers is silent", ["running", "no heartbeat"]),
        ("a silent worker was replaced", ["running", "replaced"]),
    ],
)
def test_a_worker_without_a_heartbeat_is_shown_as_the_alert_reports_it(
    app: Flask, services: Services, situation: str, states: list[str]
) -> None:
    SITUATIONS[situation][0](services)
    page = signed_in(app, services).get("/dashboard/dnsimple").text
    table = page[page.index("Workers, most recent") :]
    assert re.findall(r'class="badge \w+"><span [^>]+>.</span> ([\w ]+)</span>', table) == states


def signed_in(app: Flask, services: Services) -> FlaskClient:
    browser = app.test_client()
    _, token = create_token(services.database, "Ann", ("read",))
    browser.post("/dashboard/sign-in", data={"token": token})
    return browser


def test_every_area_is_a_check_of_the_doctor() -> None:
    assert {rule.area for rule in RULES.values()} <= set(CHECKS)
