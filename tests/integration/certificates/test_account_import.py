"""Taking over the certificates that an account has already."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from app import create_app
from app.certificates.account_import import import_progress, start_import
from app.db.models import Certificate
from app.operations.health import claim_installation
from app.services import Services
from tests.support.command_line import run
from tests.support.harness import TOKEN, drain, let_leases_end, make_due, make_settings
from tests.support.simulator_process import Simulator

DOMAINS = [f"customer{number}.example" for number in range(3)]
LIST = "/{account}/domains/{domain}/certificates"


@pytest.fixture(scope="module")
def account() -> Iterator[Simulator]:
    """Three domains: with a renewed certificate and another name, with one certificate, with none that is usable."""
    with Simulator(token=TOKEN, domain=DOMAINS, issue_delay=0.0, rate_limit=1_000_000) as simulator:
        first = _certificate(simulator, DOMAINS[0], "www")
        simulator.renew(first)
        _certificate(simulator, DOMAINS[0], "shop")
        _certificate(simulator, DOMAINS[1], "www")
        simulator.purchase(DOMAINS[2])
        yield simulator


def _certificate(simulator: Simulator, domain: str, name: str) -> int:
    number = simulator.purchase(domain, name=name)
    simulator.issue(domain, number)
    simulator.wait_until_issued(domain, number)
    return number


@pytest.fixture
def app(account: Simulator, database_url: str, tmp_path: Path) -> Iterator[Flask]:
    account.reset_calls()
    account.clear_faults()
    app = create_app(make_settings(database_url, account.url, tmp_path / "var"))
    services: Services = app.extensions["certcourier"].services
    claim_installation(services)
    services.dnsimple.webhooks()  # from its answer the quota is known
    account.reset_calls()
    yield app
    services.database.close()


@contextmanager
def working(services: Services) -> Iterator[None]:
    """A worker beside the command."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(0.02):
            make_due(services)
            drain(services)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def installed(services: Services) -> list[str]:
    with services.database.read() as session:
        query = select(Certificate.common_name).where(Certificate.fetched_at.is_not(None))
        return sorted(session.scalars(query.order_by(Certificate.id)))


NEWEST = ["shop.customer0.example", "www.customer0.example", "www.customer1.example"]


def test_the_newest_usable_of_each_set_of_names_comes_in_and_is_delivered(app: Flask, services: Services) -> None:
    with working(services):
        summary = json.loads(run(app, "certificates", "import", "--json").partition("{")[2].join(["{", ""]))
    assert (summary["domains"], summary["wanted"], summary["fetched"], summary["failed"]) == (3, 3, 3, {})
    assert installed(services) == NEWEST
    drain(services)
    folder = services.settings.data_dir / "certificates"
    assert sorted(path.name for path in folder.iterdir()) == NEWEST


def test_a_second_run_fetches_nothing(app: Flask, services: Services, account: Simulator) -> None:
    for _ in range(2):
        account.reset_calls()
        with working(services):
            run(app, "certificates", "import")
    assert sorted({call["path_template"] for call in account.calls()}) == ["/{account}/domains", LIST]
    assert installed(services) == NEWEST


def test_one_domain_may_be_imported_alone(app: Flask, services: Services) -> None:
    with working(services):
        run(app, "certificates", "import", "--domain", "Customer1.example")
    assert installed(services) == ["www.customer1.example"]


def test_a_domain_that_is_not_in_the_account_is_named(app: Flask, services: Services) -> None:
    with working(services):
        output = run(app, "certificates", "import", "--domain", "stranger.example", status=1)
    assert "Domain `stranger.example` not found" in output


def test_a_dry_run_shows_what_would_come_and_changes_nothing(
    app: Flask, services: Services, account: Simulator
) -> None:
    rows = json.loads(run(app, "certificates", "import", "--dry-run", "--json"))
    assert sorted(row["common_name"] for row in rows) == NEWEST
    assert drain(services) == []
    assert len(account.calls()) == 1 + len(DOMAINS)


def test_a_run_that_was_interrupted_is_taken_up(services: Services, account: Simulator) -> None:
    first = start_import(services.database, services.queue, None)
    (claim,) = services.queue.claim(1, worker_id="dies")
    assert claim.kind == "import_account"
    assert start_import(services.database, services.queue, None) == first
    let_leases_end(services)
    drain(services)
    progress = import_progress(services.database, first)
    assert (progress.is_finished, progress.fetched) == (True, 3)
    assert start_import(services.database, services.queue, None) != first
    assert len([call for call in account.calls() if call["path_template"] == "/{account}/domains"]) == 1


def test_a_certificate_whose_fetch_failed_is_reported_and_the_others_are_imported(
    app: Flask, services: Services, account: Simulator
) -> None:
    download = LIST + "/{certificate}/download"
    account.fault(method="GET", path_template=download, action="status", status=404, json={"message": "Not Found"})
    broken = {"data": {"server": "x", "chain": []}}
    account.fault(method="GET", path_template=download, action="status", status=200, json=broken)
    with working(services):
        output = run(app, "certificates", "import", status=1)
    assert "is not a PEM certificate" in output
    assert "no longer returns this certificate" in output
    assert len(installed(services)) == 1
