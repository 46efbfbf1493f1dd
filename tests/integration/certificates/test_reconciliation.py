"""What was missed is found: by looking at overdue renewals, at every domain in turn, and after a suppression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import insert, select, update

from app.certificates import reconciliation
from app.db.clock import db_now, read_now
from app.db.installation_state import DOMAIN_LISTING, DomainListing
from app.db.models import Certificate, Domain, Job, Quota
from app.jobs.kinds import PERIODS, JobKind
from app.services import Services
from tests.support.harness import TOKEN, drain, jobs, make_due, make_services, make_settings, register_webhook
from tests.support.simulator_process import Simulator
from tests.support.stack import wait_until

pytestmark = pytest.mark.both_databases

LIST = "/{account}/domains/{domain}/certificates"


@pytest.fixture(autouse=True)
def _domains_learned_today(services: Services, simulator: Simulator) -> None:
    """The account's domains are those of all tests: only the test of learning them wants to."""
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    with services.database.write() as session:
        today = int(read_now(session).timestamp() // 86400)
        DOMAIN_LISTING.set(session, DomainListing(today, 0))


def reconcile(services: Services, **args: Any) -> list[str]:
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.RECONCILE, args)
    return drain(services)


def install(client: FlaskClient, services: Services, simulator: Simulator, domain: str, **more: Any) -> int:
    """Order and install a certificate, without any event."""
    number = int(client.post("/issue_certificate", json={"domain": domain} | more).json["data"]["certificate_id"])
    simulator.wait_until_issued(domain, number)
    make_due(services, "poll_issuance")
    drain(services)
    simulator.reset_calls()
    return number


def installed(services: Services) -> set[int]:
    with services.database.read() as session:
        return set(session.scalars(select(Certificate.id).where(Certificate.fetched_at.is_not(None))))


def looks(simulator: Simulator) -> list[str]:
    """Domains that were asked for their certificates, in turn."""
    return [call["path"].split("/")[4] for call in simulator.calls() if call["path_template"] == LIST]


def change(services: Services, model: Any, **values: Any) -> None:
    with services.database.write() as session:
        session.execute(update(model).values(**values))


def test_a_renewal_whose_event_was_lost_is_fetched(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = install(client, services, simulator, domain)
    new = simulator.renew(old)
    assert "fetch_certificate" in reconcile(services)
    assert installed(services) == {old, new}
    assert looks(simulator) == [domain]


def test_when_all_is_well_it_costs_a_call_for_a_domain(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    install(client, services, simulator, domain)
    assert reconcile(services) == ["reconcile"]
    assert looks(simulator) == [domain]
    assert len(simulator.calls()) == 1


def test_the_accounts_domains_are_learned_page_by_page_once_a_day(database_url: str, tmp_path: Path) -> None:
    domains = [f"customer{number}.example" for number in range(150)]
    with Simulator(token=TOKEN, domain=domains, issue_delay=0.0) as simulator:
        services = make_services(make_settings(database_url, simulator.url, tmp_path / "var"))
        with services.database.write() as session:
            DOMAIN_LISTING.set(session, DomainListing(1, 0))
        number = simulator.purchase(domains[-1], name="ordered.elsewhere")
        simulator.issue(domains[-1], number)
        simulator.wait_until_issued(domains[-1], number)
        services.dnsimple.webhooks()  # from its answer the quota is known
        for _ in range(3):
            reconcile(services)
        pages = [call for call in simulator.calls() if call["path_template"] == "/{account}/domains"]
        assert len(pages) == 2
        with services.database.write() as session:
            assert set(session.scalars(select(Domain.name))) == set(domains)
            session.execute(update(Domain).where(Domain.name != domains[-1]).values(last_checked_at=db_now(-3600)))
        reconcile(services)
        assert installed(services) == {number}
        services.database.close()


def test_an_overdue_renewal_goes_before_everything_else(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    other, due = domain, f"due-{domain}"
    install(client, services, simulator, due)
    install(client, services, simulator, other)
    with services.database.write() as session:
        session.execute(update(Domain).values(last_checked_at=db_now(-3 * 86400)))
        session.execute(update(Domain).where(Domain.name == due).values(last_checked_at=db_now(-7 * 3600)))
        times = {"not_before": db_now(-61 * 86400), "not_after": db_now(29 * 86400)}
        session.execute(update(Certificate).where(Certificate.domain == due).values(**times))
    change(services, Quota, call_limit=1)
    reconcile(services)
    assert looks(simulator) == [due]
    reconcile(services)  # not again within six hours
    assert looks(simulator) == [due, other]


@pytest.mark.parametrize(
    ("not_before", "not_after", "auto_renew", "expected"),
    [
        (-60.2, 29.8, True, True),
        (-60.2, 29.8, None, True),
        (-60.2, 29.8, False, False),
        (-59.8, 30.2, True, False),
        (-1, 5.5, True, False),
        (-3.5, 3, True, True),
        (-100, -8, True, False),
    ],
)
def test_when_a_renewal_is_overdue(
    services: Services,
    client: FlaskClient,
    simulator: Simulator,
    domain: str,
    not_before: float,
    not_after: float,
    auto_renew: bool | None,
    expected: bool,
) -> None:
    """Times in days from now; the second half counts for short ones, 30 days for long ones."""
    install(client, services, simulator, domain)
    times = {"not_before": db_now(not_before * 86400), "not_after": db_now(not_after * 86400)}
    change(services, Certificate, **times, auto_renew=auto_renew)
    with services.database.write() as session:
        now = read_now(session)
        assert (reconciliation._next_due(session, now) is not None) == expected


def test_the_calls_of_a_run_are_a_share_of_the_limit(services: Services, simulator: Simulator) -> None:
    with services.database.write() as session:
        rows = [{"id": number, "account_id": 1010, "name": f"gone{number}.example"} for number in range(1, 10_001)]
        session.execute(insert(Domain), rows)
    services.dnsimple.webhooks()
    change(services, Quota, call_limit=2400, remaining=2400, window_seconds=3600)
    simulator.control("POST", "/settings", {"rate_limit": 2400})
    try:
        simulator.reset_calls()
        reconcile(services)
    finally:
        simulator.control("POST", "/settings", {"rate_limit": 1_000_000})
    runs = {kind: 3600 / seconds for kind, seconds in PERIODS.items()}
    hourly = len(simulator.calls()) * runs["reconcile"] + runs["register_webhook"]
    assert 0.03 * 2400 < hourly < 0.05 * 2400


def test_it_can_be_switched_off(client: FlaskClient, services: Services, simulator: Simulator, domain: str) -> None:
    install(client, services, simulator, domain)
    off = replace(services, settings=services.settings.model_copy(update={"reconcile_percent": 0}))
    assert reconcile(off) == ["reconcile"]
    assert simulator.calls() == []


def test_a_domain_that_has_left_the_account_is_deleted(services: Services) -> None:
    with services.database.write() as session:
        session.add(Domain(id=77, account_id=1010, name="stranger.example"))
    services.dnsimple.webhooks()
    reconcile(services)
    with services.database.read() as session:
        assert session.get(Domain, 77) is None
    assert jobs(services, "reconcile")[-1].state == "done"


def test_a_certificate_whose_fetch_failed_permanently_is_left_to_the_operator(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = install(client, services, simulator, domain)
    simulator.rates(wrong_key=1)
    new = simulator.renew(old)
    simulator.clear_faults()
    for _ in range(2):
        change(services, Domain, last_checked_at=None)
        reconcile(services)
    (dead,) = [job for job in jobs(services, "fetch_certificate") if job.state == "dead"]
    assert dead.args["certificate_id"] == new
    assert installed(services) == {old}


def test_a_valid_certificate_older_than_one_whose_fetch_failed_is_found(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = install(client, services, simulator, domain)
    good = simulator.renew(old)
    simulator.rates(wrong_key=1)
    simulator.renew(old)
    simulator.clear_faults()
    change(services, Domain, last_checked_at=None)
    reconcile(services)
    assert installed(services) == {old}
    reconcile(services)
    assert installed(services) == {old, good}


def test_only_the_newest_of_a_set_of_names_is_fetched(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    first = install(client, services, simulator, domain)
    simulator.renew(first)
    third = simulator.renew(first)
    reconcile(services)
    assert installed(services) == {first, third}


def test_a_domain_whose_answer_cannot_be_used_does_not_stand_in_the_way(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    bad = f"bad-{domain}"
    install(client, services, simulator, bad)
    old = install(client, services, simulator, domain)
    new = simulator.renew(old)
    with services.database.write() as session:
        session.execute(update(Domain).where(Domain.name == bad).values(last_checked_at=db_now(-3 * 86400)))
        session.execute(update(Domain).where(Domain.name == domain).values(last_checked_at=db_now(-2 * 86400)))
    simulator.fault(method="GET", path_template=LIST, action="status", status=200, body="{}")
    reconcile(services)
    assert looks(simulator) == [bad]
    make_due(services)
    drain(services)
    assert new in installed(services)


def test_a_suppressed_webhook_is_recreated_and_missed_events_are_reconciled(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    register_webhook(services)
    old = install(client, services, simulator, domain)
    waiting = int(client.post("/issue_certificate", json={"domain": f"new-{domain}"}).json["data"]["certificate_id"])
    new = simulator.renew(old)
    simulator.wait_until_issued(f"new-{domain}", waiting)
    for number in range(20):  # our public URL is unreachable
        simulator.control("POST", "/events", {"name": "domain.create", "request_identifier": f"filler-{number}"})
    wait_until(lambda: simulator.api("GET", "/webhooks")[0]["suppressed_at"], "the webhook is suppressed")
    (hook,) = simulator.api("GET", "/webhooks")
    change(services, Domain, last_checked_at=db_now(-60))
    with services.database.write() as session:
        times = {"not_before": db_now(-60.1 * 86400), "not_after": db_now(29.9 * 86400)}
        session.execute(update(Certificate).where(Certificate.id == old).values(**times))
    simulator.reset_calls()
    register_webhook(services)
    (fresh,) = simulator.api("GET", "/webhooks")
    assert (fresh["url"], fresh["suppressed_at"]) == (services.webhook_url, None)
    assert fresh["id"] != hook["id"]
    assert installed(services) == {old, new, waiting}
    assert jobs(services, "reconcile")[0].key is None
    assert len(simulator.calls()) == 3 + 1 + 2 + 1 + 2  # the webhook; the overdue domain, its renewal; the order


def test_nothing_is_caught_up_with_when_nothing_was_missed(services: Services) -> None:
    register_webhook(services)
    register_webhook(services)
    with services.database.read() as session:
        assert session.scalar(select(Job).where(Job.kind == "reconcile")) is None
