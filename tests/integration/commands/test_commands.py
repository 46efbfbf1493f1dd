"""`certcourier ...`."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from flask.cli import AppGroup
from flask.testing import FlaskClient

from app.commands.command_line import GROUPS
from app.db.clock import db_now
from app.db.migrations import head_revision
from app.db.models import Job
from app.jobs.kinds import JobKind
from app.services import Services
from tests.support.command_line import run
from tests.support.harness import drain, jobs
from tests.support.records import add_lineages
from tests.support.simulator_process import Simulator


def test_a_token_is_shown_once_and_works(app: Flask) -> None:
    made = json.loads(run(app, "tokens", "create", "billing", "--scope", "read", "--json"))
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert app.test_client().get("/orders", headers=headers).status_code == 200
    listed = run(app, "tokens", "list")
    assert "billing" in listed
    assert made["token"] not in listed
    (row,) = json.loads(run(app, "tokens", "list", "--json"))
    assert row["last_used_at"] is not None
    run(app, "tokens", "revoke", made["id"])
    assert app.test_client().get("/orders", headers=headers).status_code == 401
    assert "no valid token" in run(app, "tokens", "revoke", made["id"], status=1)


def test_webhooks_are_listed_without_their_secrets(app: Flask, services: Services, simulator: Simulator) -> None:
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    assert "No webhooks" in run(app, "webhooks", "list")
    for url in (services.webhook_url, "https://user:pass@other.example/secret"):
        simulator.api("POST", "/webhooks", {"url": url})
    output = run(app, "webhooks", "list")
    assert [line.split()[1:3] for line in output.splitlines()[1:]] == [
        ["127.0.0.1:1", "certcourier"],
        ["other.example", "other"],
    ]
    assert "secret" not in output
    assert "pass" not in output


def test_dead_jobs_are_listed_and_retried(app: Flask, services: Services) -> None:
    with services.database.write() as session:
        session.add(Job(kind="prune", args={}, state="dead", last_error="hopeless"))
    (row,) = json.loads(run(app, "jobs", "list", "--state", "dead", "--json"))
    assert row["last_error"] == "hopeless"
    run(app, "jobs", "retry", str(row["id"]))
    drain(services)
    assert [job.state for job in jobs(services)] == ["done"]
    assert "no dead job" in run(app, "jobs", "retry", str(row["id"]), status=1)


def test_a_job_that_cannot_be_retried_names_the_remedy(app: Flask, services: Services) -> None:
    with services.database.write() as session:
        session.add(Job(kind="advance_order", args={"order_id": "ord_x"}, state="dead", finished_at=db_now()))
        session.add(Job(kind="prune", args={}, state="dead", finished_at=db_now()))
    dead = {job.kind: job.id for job in jobs(services)}
    output = run(app, "jobs", "retry", str(dead["advance_order"]), status=1)
    assert f"job {dead['advance_order']} (advance_order) cannot be retried: its order has failed: order again" in output
    output = run(app, "jobs", "retry", "--all-dead")
    assert output.startswith("1 job requeued.\n1 job cannot be retried")


def test_an_unfinished_job_is_cancelled(app: Flask, services: Services) -> None:
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE, delay=1000)
    run(app, "jobs", "cancel", str(jobs(services)[0].id))
    assert [job.state for job in jobs(services)] == ["cancelled"]
    assert "no unfinished job" in run(app, "jobs", "cancel", "1", status=1)


def test_cancelling_an_orders_job_fails_the_order(app: Flask, client: FlaskClient, services: Services) -> None:
    request = {"json": {"domain": "cancelled.example"}, "headers": {"Prefer": "respond-async"}}
    order_id = client.post("/issue_certificate", **request).json["data"]["order_id"]
    (job,) = jobs(services, "advance_order")
    run(app, "jobs", "cancel", str(job.id))
    order = client.get(f"/orders/{order_id}").json["data"]
    assert order["order_state"] == "failed"
    assert f"job {job.id} was cancelled by operator:" in order["failure"]["detail"]
    assert client.post("/issue_certificate", **request).json["data"]["order_id"] != order_id  # it can be ordered again


def test_renewals_are_ordered_together_or_not_at_all(app: Flask, services: Services) -> None:
    add_lineages(services, 1, each=2)  # certificate 10, and 11 that has replaced it
    assert "no fetched certificate has the ID 99" in run(app, "certificates", "renew", "11", "99", status=1)
    assert "certificate 10 has already been replaced by certificate 11" in run(
        app, "certificates", "renew", "10", status=1
    )
    assert jobs(services, "advance_order") == []
    output = run(app, "certificates", "renew", "11")
    (job,) = jobs(services, "advance_order")
    assert output == f"Renewal of certificate 11: ordered (`certcourier orders show {job.args['order_id']}`).\n"
    assert "already in progress" in run(app, "certificates", "renew", "11")
    (entry,) = [entry for entry in json.loads(run(app, "audit", "list", "--json")) if entry["subject"] == "11"]
    assert (entry["action"], entry["actor"].partition(":")[0]) == ("renewal.ordered", "operator")


def test_the_schema_is_downgraded_and_upgraded(app: Flask) -> None:
    assert f"revision {head_revision()}" in run(app, "db", "current")
    run(app, "db", "downgrade", "base")
    assert "revision None" in run(app, "db", "current", status=1)
    run(app, "db", "upgrade")
    assert f"revision {head_revision()}" in run(app, "db", "current")


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_command_has_help_and_an_example(app: Flask, group: AppGroup) -> None:
    for name in group.commands:
        explained = run(app, str(group.name), name, "--help")
        assert "Usage:" in explained
        assert f"Example: certcourier {group.name} {name}" in explained
