"""Deliveries by an operator's wish: a thousand by one command, none twice, no call to DNSimple."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from app.db.clock import db_now
from app.db.models import Certificate, Delivery, Job
from app.deliveries.delivery import enqueue_delivery
from app.deliveries.redelivery import BATCH, RedeliveryRequest, redeliver
from app.destinations.base import Bundle, DeliveryResult, DestinationConfig
from app.destinations.files.destination import FilesConfig, FilesDestination
from app.services import Services
from app.web.context import WebContext
from tests.support.command_line import run
from tests.support.harness import drain, jobs
from tests.support.orders import order_and_fetch
from tests.support.records import add_deliveries, add_lineages
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases


@pytest.fixture
def added(app: Flask, services: Services, tmp_path: Path) -> Services:
    """The operator has added a destination, `mail`, for some of the domains."""
    domains = ("*.example",)
    mail = FilesDestination(FilesConfig(kind="files", name="mail", path=tmp_path / "mail", domains=domains))
    added = replace(services, destinations={**services.destinations, "mail": mail})
    context: WebContext = app.extensions["certcourier"]
    app.extensions["certcourier"] = replace(context, services=added)
    return added


def states(services: Services, destination: str = "mail") -> dict[int, str]:
    query = select(Delivery.certificate_id, Delivery.state).where(Delivery.destination == destination)
    with services.database.read() as session:
        return dict(session.execute(query).all())


def count(services: Services, state: str) -> int:
    with services.database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.kind == "deliver", Job.state == state)
        return session.scalar(query) or 0


def test_a_destination_is_added_to_a_thousand_certificates_by_one_command(
    app: Flask, added: Services, simulator: Simulator
) -> None:
    newest = add_lineages(added, 1000, each=2)
    output = run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    assert "1000 deliveries queued for mail" in output
    assert states(added) == dict.fromkeys(newest, "pending")
    assert count(added, "ready") == 1000
    assert "0 deliveries queued for mail" in run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    assert count(added, "ready") == 1000
    assert simulator.calls() == []


def test_an_interrupted_run_is_gone_on_with(app: Flask, added: Services) -> None:
    add_lineages(added, 250)
    steps = redeliver(
        added.database, added.queue, added.destinations, RedeliveryRequest("mail"), actor="operator:tests"
    )
    assert next(steps).queued == BATCH
    assert len(states(added)) == BATCH
    assert "150 deliveries queued for mail" in run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    assert count(added, "ready") == 250


def test_what_was_enqueued_is_delivered(app: Flask, added: Services, tmp_path: Path) -> None:
    newest = add_lineages(added, 3, each=2)
    run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    drain(added)
    assert states(added) == dict.fromkeys(newest, "delivered")
    assert sorted(path.name for path in (tmp_path / "mail").iterdir()) == [
        f"www.customer{number}.example" for number in (1, 2, 3)
    ]


def test_what_was_delivered_is_left_alone_unless_it_is_wanted_again(app: Flask, added: Services) -> None:
    newest = add_lineages(added, 2)
    add_deliveries(added, newest[:1], "mail", state="delivered")
    assert "1 delivery queued for mail" in run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    assert count(added, "ready") == 1
    drain(added)
    assert "2 deliveries queued for mail" in run(
        app, "certificates", "redeliver", "--destination", "mail", "--all", "--again"
    )
    assert count(added, "ready") == 2


def test_one_certificate_or_lineage_is_delivered_again_in_any_case(app: Flask, added: Services) -> None:
    first, second = add_lineages(added, 2)
    add_deliveries(added, [first, second], "mail", state="delivered")
    run(app, "certificates", "redeliver", "--destination", "mail", str(first))
    run(app, "certificates", "redeliver", "--destination", "mail", "--lineage", "www.customer2.example")
    assert states(added) == {first: "pending", second: "pending"}


def test_only_what_the_destination_takes_goes_there(app: Flask, added: Services) -> None:
    add_lineages(added, 2)
    with added.database.write() as session:
        session.execute(update(Certificate).where(Certificate.id == 10).values(names=["www.customer1.test"]))
    run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    assert list(states(added)) == [20]


def test_an_older_certificate_is_refused_by_name(app: Flask, added: Services) -> None:
    (newest,) = add_lineages(added, 1, each=2)
    output = run(app, "certificates", "redeliver", "--destination", "mail", str(newest - 1), status=1)
    assert f"has been replaced by {newest}" in output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--destination", "nowhere", "--all"], 1, "unknown destination 'nowhere'"),
        (["--destination", "mail"], 2, "give exactly one of"),
        (["--destination", "mail", "--all", "7"], 2, "give exactly one of"),
        (["--destination", "mail", "7"], 1, "certificate 7 is unknown or not fetched"),
        (["--destination", "mail", "--lineage", "x"], 1, "unknown lineage 'x'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_named(
    app: Flask, added: Services, arguments: list[str], status: int, message: str
) -> None:
    assert added.destinations
    assert message in run(app, "certificates", "redeliver", *arguments, status=status)


@dataclass
class Careless:
    """A destination that does not compare versions; something happens while it takes one."""

    meanwhile: Callable[[], None]
    held: list[int] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    config: ClassVar = DestinationConfig(name="careless")

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        if not self.held:
            self.meanwhile()
        self.held.append(bundle.version.certificate_id)
        self.fingerprints.append(bundle.fingerprint)
        return DeliveryResult("delivered", "taken")

    def check(self) -> None:
        """Takes anything."""


def test_a_newer_certificate_is_put_back_that_an_older_one_has_overtaken(services: Services) -> None:
    add_lineages(services, 1, each=2)  # 10, and its successor 11
    with services.database.write() as session:  # which is not installed yet
        session.execute(update(Certificate).where(Certificate.id == 11).values(lineage_id=None, fetched_at=None))

    def newer_comes() -> None:
        with services.database.write() as session:
            session.execute(update(Certificate).where(Certificate.id == 11).values(lineage_id=1, fetched_at=db_now()))
            session.add(Delivery(certificate_id=11, destination="careless", state="delivered"))
        careless.held.append(11)

    careless = Careless(newer_comes)
    services = replace(services, destinations={"careless": careless})
    with services.database.write() as session:
        enqueue_delivery(services.queue, services.destinations, session, 10, "careless")
    drain(services)
    assert careless.held == [11, 10, 11]
    assert states(services, "careless") == {10: "delivered", 11: "delivered"}


def test_a_certificate_that_is_reissued_during_its_delivery_is_delivered_again(services: Services) -> None:
    add_lineages(services, 1)

    def reissued() -> None:
        with services.database.write() as session:
            session.execute(update(Certificate).values(fingerprint="ab" * 32))
            enqueue_delivery(services.queue, services.destinations, session, 10, "careless")

    careless = Careless(reissued)
    services = replace(services, destinations={"careless": careless})
    with services.database.write() as session:
        enqueue_delivery(services.queue, services.destinations, session, 10, "careless")
    drain(services)
    assert careless.fingerprints[-1] == "ab" * 32
    assert states(services, "careless") == {10: "delivered"}


def test_a_key_that_is_not_kept_is_fetched_again(
    app: Flask, client: FlaskClient, added: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, added, simulator, domain)
    with added.database.write() as session:
        session.execute(update(Certificate).values(encrypted_key=None))
    simulator.reset_calls()
    run(app, "certificates", "redeliver", "--destination", "mail", str(number))
    drain(added)
    assert states(added) == {number: "delivered"}
    assert len(simulator.calls()) == 1


def test_permanently_failed_deliveries_are_retried_once_each(app: Flask, added: Services, tmp_path: Path) -> None:
    newest = add_lineages(added, 3)
    blocked = tmp_path / "mail"
    blocked.write_text("a file where the folder should be")
    run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    with added.database.write() as session:
        session.execute(update(Job).values(max_attempts=1))
    drain(added)
    assert states(added) == dict.fromkeys(newest, "failed")
    assert count(added, "dead") == 3
    with added.database.write() as session:  # a later job of the same delivery, which died as well
        session.add(Job(kind="deliver", args={"certificate_id": newest[0], "destination": "mail"}, state="dead"))
    blocked.unlink()
    (row, *_) = json.loads(run(app, "deliveries", "list", "--state", "failed", "--destination", "mail", "--json"))
    assert row["lineage"] == "www.customer3.example"
    assert "1 delivery queued for retry." in run(app, "deliveries", "retry", str(row["id"]))
    assert "2 deliveries queued for retry." in run(app, "deliveries", "retry", "--failed")
    assert (count(added, "dead"), count(added, "cancelled"), count(added, "ready")) == (0, 1, 3)
    drain(added)
    assert states(added) == dict.fromkeys(newest, "delivered")
    assert "no pending, failing or failed delivery matches" in run(app, "deliveries", "retry", "--failed", status=1)


def test_what_waits_for_its_next_attempt_begins_at_once(app: Flask, added: Services) -> None:
    add_lineages(added, 2)
    run(app, "certificates", "redeliver", "--destination", "mail", "--all")
    with added.database.write() as session:
        session.execute(update(Job).values(run_at=db_now(3600)))
    assert drain(added) == []
    assert "2 deliveries queued for retry." in run(app, "deliveries", "retry", "--destination", "mail")
    assert drain(added) == ["deliver", "deliver"]
    assert len(jobs(added, "deliver")) == 2


def test_retrying_everything_has_to_be_said(app: Flask, added: Services) -> None:
    assert added.destinations
    assert "give delivery IDs" in run(app, "deliveries", "retry", status=2)
