"""The webhook's secret is replaced without losing an event, on all hosts; strangers' posts cost little."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, func, select, update
from sqlalchemy.event import listen, remove

from app import create_app
from app.crypto.webhook_secrets import PROPAGATION_SECONDS, RETRY_WINDOW_SECONDS, WebhookSecrets, digest_of
from app.db.clock import db_now, read_now
from app.db.models import Base, Certificate, Domain, Job, Quota, WebhookSecret
from app.events.ingestion import EventIngestion, IncomingEvent
from app.jobs.kinds import JobKind
from app.operations.health import claim_installation
from app.services import Services, build_services
from tests.support.command_line import run
from tests.support.harness import ACCOUNT, TOKEN, WEBHOOK_SECRET, drain, event, jobs, make_due, make_settings
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

EVENTS = "/dnsimple/events/"


@pytest.fixture(autouse=True)
def _no_webhooks(simulator: Simulator) -> None:
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")


def register(services: Services) -> None:
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
        session.execute(update(WebhookSecret).values(created_at=db_now(-PROPAGATION_SECONDS)))
    make_due(services)
    drain(services)


def rotate(services: Services) -> str:
    with services.database.write() as session:
        services.webhook_secrets.rotate(session)
    return services.webhook_secrets.current()


def post(app: Flask, secret: str, body: dict[str, Any] | None = None) -> int:
    return app.test_client().post(EVENTS + secret, json=body or event(1, 1)).status_code


def other_host(services: Services, **more: Any) -> Services:
    """Another host of the same installation."""
    url, folder = f"{services.settings.database_url}", services.settings.data_dir
    return build_services(make_settings(url, services.settings.dnsimple_base_url, folder, **more))


def test_both_secrets_are_taken_while_one_replaces_the_other(app: Flask, services: Services) -> None:
    new = rotate(services)
    assert [post(app, secret) for secret in (WEBHOOK_SECRET, new)] == [200, 200]


def test_the_new_url_is_registered_before_the_old_one_is_deleted(services: Services, simulator: Simulator) -> None:
    register(services)
    old = services.webhook_url
    simulator.reset_calls()
    rotate(services)
    register(services)
    assert [hook["url"] for hook in simulator.api("GET", "/webhooks")] == [services.webhook_url]
    assert services.webhook_url != old
    assert [call["method"] for call in simulator.calls()] == ["GET", "POST", "DELETE"]


def test_dnsimple_hears_of_a_secret_only_when_every_process_has(services: Services, simulator: Simulator) -> None:
    register(services)
    rotate(services)
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
    drain(services)
    (hook,) = simulator.api("GET", "/webhooks")
    assert hook["url"].endswith(WEBHOOK_SECRET)


def test_the_old_secret_is_taken_until_the_retries_are_over(app: Flask, services: Services) -> None:
    register(services)
    rotate(services)
    register(services)
    with services.database.read() as session:
        row = session.get_one(WebhookSecret, digest_of(WEBHOOK_SECRET))
        assert row.accepted_until is not None
        left = (row.accepted_until - read_now(session)).total_seconds()
    assert 2 * 3600 < left <= RETRY_WINDOW_SECONDS
    assert post(app, WEBHOOK_SECRET) == 200
    with services.database.write() as session:
        old = update(WebhookSecret).where(WebhookSecret.digest == digest_of(WEBHOOK_SECRET))
        session.execute(old.values(accepted_until=db_now(-1)))
    assert other_host(services).webhook_secrets.accepts(WEBHOOK_SECRET) is False
    services.webhook_secrets._read_at = None  # as half a minute later
    assert post(app, WEBHOOK_SECRET) == 404


def test_the_old_secret_stays_while_its_url_could_not_be_deleted(services: Services, simulator: Simulator) -> None:
    register(services)
    rotate(services)
    simulator.fault(method="DELETE", path_template="/{account}/webhooks/{webhook}", action="status", status=500)
    register(services)
    with services.database.read() as session:
        assert session.get_one(WebhookSecret, digest_of(WEBHOOK_SECRET)).accepted_until is None
    register(services)
    with services.database.read() as session:
        assert session.get_one(WebhookSecret, digest_of(WEBHOOK_SECRET)).accepted_until is not None


def test_any_host_hears_and_registers_the_new_secret(services: Services, simulator: Simulator) -> None:
    """The other one was started before the rotation and is configured with the old secret still."""
    other = other_host(services)
    assert other.webhook_secrets.accepts(WEBHOOK_SECRET)
    new = rotate(services)
    other.webhook_secrets._read_at = -1e9
    assert other.webhook_secrets.accepts(new)
    register(other)
    assert [hook["url"] for hook in simulator.api("GET", "/webhooks")] == [services.webhook_url]


def test_a_secret_that_was_rotated_out_does_not_come_back_by_a_restart(services: Services) -> None:
    new = rotate(services)
    restarted = other_host(services)
    claim_installation(restarted)
    assert restarted.webhook_secrets.current() == new
    assert restarted.webhook_secrets.is_outdated()


def test_a_newly_configured_secret_is_a_rotation(services: Services) -> None:
    fresh = "Zx3Vq7Rk2Xz9Jm4Tb8WpLd5nGhYc6Sf1Qv0Ea-Uo_wN"
    restarted = other_host(services, webhook_secret=fresh)
    claim_installation(restarted)
    assert services.webhook_secrets.current() == fresh
    assert restarted.webhook_secrets.accepts(WEBHOOK_SECRET)


def test_hosts_without_a_configured_secret_share_one(services: Services) -> None:
    hosts = [other_host(services, webhook_secret=None) for _ in range(2)]
    with services.database.write() as session:
        session.query(WebhookSecret).delete()
    first, second = (host.webhook_secrets.current() for host in hosts)
    assert first == second != WEBHOOK_SECRET
    assert len(first) >= 43


def test_a_secret_of_an_earlier_version_is_kept(services: Services) -> None:
    """It stood in `webhook.secret`, and DNSimple knows its URL."""
    with services.database.write() as session:
        session.query(WebhookSecret).delete()
    file = services.settings.data_dir / "webhook.secret"
    file.write_text("Yx3Vq7Rk2Xz9Jm4Tb8WpLd5nGhYc6Sf1Qv0Ea-Uo_wN\n")
    file.chmod(0o600)
    assert other_host(services, webhook_secret=None).webhook_secrets.current() == file.read_text().strip()


def test_the_database_does_not_hold_a_secret_in_clear(services: Services) -> None:
    secret = rotate(services)
    register(services)
    with services.database.read() as session:
        rows = [row for table in Base.metadata.sorted_tables for row in session.execute(select(table))]
        assert session.scalar(select(func.count()).select_from(WebhookSecret)) == 2
    held = [value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row]
    assert [value for value in held if secret.encode() in value] == []


def test_the_command_rotates_and_tells_until_when(app: Flask, services: Services, simulator: Simulator) -> None:
    register(services)
    assert "the new URL is not registered yet" in run(app, "webhooks", "rotate", "--wait", "0", status=1)
    register(services)
    assert [line.split()[2] for line in run(app, "webhooks", "list").splitlines()[1:]] == ["certcourier"]
    (hook,) = simulator.api("GET", "/webhooks")
    assert services.webhook_secrets.current() in hook["url"]
    assert "webhook_secret.rotated" in run(app, "audit", "export")


# Strangers


def statements(services: Services) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    listen(services.database.engine, "before_cursor_execute", note)
    yield seen
    remove(services.database.engine, "before_cursor_execute", note)


def test_a_flood_of_wrong_secrets_costs_one_look_a_second(services: Services) -> None:
    now = 100.0
    secrets = WebhookSecrets(services.database, services.encryptor, given=None, clock=lambda: now)
    looked = statements(services)
    seen = next(looked)
    for number in range(1000):
        assert not secrets.accepts(f"wrong {number}")
    assert sum("webhook_secrets" in line for line in seen) == 1
    now = 101.5
    for number in range(1000):
        assert not secrets.accepts(f"wrong {number}")
    assert sum("webhook_secrets" in line for line in seen) == 2
    assert secrets.accepts(WEBHOOK_SECRET)
    next(looked, None)


@pytest.fixture
def guarded(services: Services, simulator: Simulator) -> Iterator[Flask]:
    """Events are taken from 192.0.2.0/24 alone; 127.0.0.1 is a trusted proxy."""
    url, folder = f"{services.settings.database_url}", services.settings.data_dir
    more = {"webhook_networks": "192.0.2.0/24,2001:db8::/32", "trusted_proxies": "127.0.0.1"}
    app = create_app(make_settings(url, simulator.url, folder, **more))
    yield app
    app.extensions["certcourier"].services.database.close()


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("192.0.2.7", "", 200),
        ("2001:db8::7", "", 200),
        ("198.51.100.7", "", 404),
        ("198.51.100.7", "192.0.2.7", 404),  # said by somebody whom we do not trust
        ("127.0.0.1", "192.0.2.7", 200),
        ("127.0.0.1", "192.0.2.7, 198.51.100.7", 404),  # the first one is what the stranger wrote
        ("127.0.0.1", "", 404),
    ],
)
def test_events_come_from_the_given_networks_alone(guarded: Flask, peer: str, forwarded: str, status: int) -> None:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    environ = {"REMOTE_ADDR": peer}
    client = guarded.test_client()
    answer = client.post(EVENTS + WEBHOOK_SECRET, json=event(1, 1), headers=headers, environ_base=environ)
    assert answer.status_code == status


LIMIT = 1000
WASTED = 50  # five per cent of it


def test_a_flood_of_forged_events_wastes_a_small_share_of_the_quota(
    services: Services, tmp_path: Path, domain: str
) -> None:
    """Somebody who knows the secret names 150 certificates that do not exist, of domains that do and that do not."""
    with Simulator(token=TOKEN, any_domain=True, rate_limit=LIMIT) as limited:
        url = f"{services.settings.database_url}"
        app = create_app(make_settings(url, limited.url, tmp_path / "var"))
        flooded: Services = app.extensions["certcourier"].services
        flooded.dnsimple.domain(domain)  # its answer tells the limit
        known = limited.domain_id(domain)
        for number in range(3 * WASTED):
            forged = event(9_000_000 + number, known if number % 2 else 8_000_000 + number)
            assert post(app, WEBHOOK_SECRET, forged) == 200
        limited.reset_calls()
        drain(flooded)
        assert len(limited.calls()) <= WASTED + 5  # what is asked for together is paid for together
        assert {job.state for job in jobs(flooded, "fetch_certificate")} == {"done", "ready"}
        flooded.dnsimple.domain(domain)  # everybody else goes on
        flooded.database.close()


def test_a_flood_makes_no_jobs_without_end(services: Services) -> None:
    ingestion = EventIngestion(services, most_waiting=50)
    outcomes = []
    for number in range(80):
        ingestion._counted_at = -1e9  # as a second later
        outcomes.append(ingestion.record(IncomingEvent(f"r{number}", "certificate.issue", ACCOUNT, 100 + number, 7)))
    assert outcomes == ["queued"] * 50 + ["overloaded"] * 30
    assert len(jobs(services)) == 50


def test_an_unknown_certificate_is_given_up_after_days_without_a_call(services: Services) -> None:
    EventIngestion(services).record(IncomingEvent("r", "certificate.issue", ACCOUNT, 1, 7))
    with services.database.write() as session:
        session.add(Domain(id=7, account_id=ACCOUNT, name="customer.example"))
        session.execute(update(Job).values(snoozes=73))
    drain(services)
    assert [job.state for job in jobs(services)] == ["done"]


def test_what_is_found_by_looking_does_not_wait_behind_a_flood(
    services: Services, simulator: Simulator, domain: str
) -> None:
    """The share for unknown certificates is spent by forged events when a real one comes."""
    number = simulator.purchase(domain)
    simulator.issue(domain, number)
    simulator.wait_until_issued(domain, number)
    domain_id = simulator.domain_id(domain)
    services.dnsimple.domain(domain)
    with services.database.write() as session:
        session.execute(update(Quota).values(unknown_left=0))
        session.add(Domain(id=domain_id, account_id=ACCOUNT, name=domain))
    EventIngestion(services).record(IncomingEvent("r", "certificate.issue", ACCOUNT, number, domain_id))
    drain(services)
    assert [job.state for job in jobs(services, "fetch_certificate")] == ["ready"]
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.RECONCILE)
    drain(services)
    with services.database.read() as session:
        assert session.get_one(Certificate, number).fetched_at is not None


def test_an_event_that_is_replayed_after_its_certificate_is_installed_costs_no_call(
    app: Flask, services: Services, simulator: Simulator, domain: str
) -> None:
    number = simulator.purchase(domain)
    simulator.issue(domain, number)
    simulator.wait_until_issued(domain, number)
    post(app, WEBHOOK_SECRET, event(number, simulator.domain_id(domain)))
    drain(services)
    simulator.reset_calls()
    for _ in range(20):  # under other identifiers each time
        post(app, WEBHOOK_SECRET, event(number, simulator.domain_id(domain)))
        drain(services)
    assert simulator.calls() == []


def test_processes_that_start_at_once_agree_on_a_current_secret(services: Services) -> None:
    for number in range(5):
        with services.database.write() as session:
            session.execute(delete(WebhookSecret))
        given = f"{number}{WEBHOOK_SECRET}"
        starting = [WebhookSecrets(services.database, services.encryptor, given=given) for _ in range(8)]
        with ThreadPoolExecutor(len(starting)) as pool:
            found = set(pool.map(WebhookSecrets.current_digest, starting))
        assert found == {digest_of(given)}
