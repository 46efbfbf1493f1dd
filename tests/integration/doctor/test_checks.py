"""`certcourier doctor`: each check reports what is wrong and the remedy."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from pydantic import SecretStr
from werkzeug.serving import make_server

from app import create_app
from app.crypto.keyring import KeyFile
from app.db.installation_state import RUNNING_VERSIONS
from app.db.migrations import downgrade
from app.db.models import Event, Job, Quota, Worker
from app.dnsimple.budget import digest_token
from app.doctor.checks import CHECKS, OF_A_DOMAIN
from app.doctor.findings import CheckContext, ok, run_checks
from app.operations.health import claim_installation, code_version, note_version
from app.services import Services
from config import Settings
from tests.support.databases import new_sqlite_database
from tests.support.handed_out import folder_in
from tests.support.harness import ACCOUNT, WEBHOOK_SECRET, make_settings
from tests.support.name_server import NameServer
from tests.support.records import add_certificate
from tests.support.simulator_process import Simulator
from tests.support.stack import free_port

pytestmark = pytest.mark.both_databases

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "commands.md"
OURS = ["ns1.dnsimple-edge.com.", "ns2.dnsimple-edge.net."]
SOA = ["ns1.dnsimple-edge.com. admin.example. 1 2 3 4 5"]


@pytest.fixture
def settings(database_url: str, simulator: Simulator, tmp_path: Path) -> Settings:
    return make_settings(database_url, simulator.url, tmp_path / "var", public_url=f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def serving(app: Flask, settings: Settings) -> Iterator[None]:
    """The application listens at its PUBLIC_URL."""
    with serve(app, settings.public_url):
        yield


def serve(app: Flask, url: str) -> ExitStack:
    server = make_server("127.0.0.1", int(url.rpartition(":")[2]), app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stack = ExitStack()
    stack.callback(server.server_close)
    stack.callback(thread.join)
    stack.callback(server.shutdown)
    return stack


def doctor(app: Flask, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    result = app.test_cli_runner().invoke(args=["doctor", "--json", *arguments])
    assert result.exit_code == status, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    for finding in found:
        assert finding["remedy"] or finding["level"] == "ok"
        assert WEBHOOK_SECRET not in json.dumps(finding)
    return found


def levels(findings: list[dict[str, Any]]) -> dict[str, str]:
    """The worst of each check."""
    ranks = ["ok", "warning", "critical"]
    found: dict[str, str] = {}
    for finding in findings:
        found[finding["check"]] = max(found.get(finding["check"], "ok"), finding["level"], key=ranks.index)
    return found


def only(app: Flask, check: str, *arguments: str, status: int = 1) -> str:
    """The findings of one check."""
    findings = doctor(app, "--only", check, *arguments, status=status)
    return "\n".join(f"{finding['level']}: {finding['meaning']}; {finding['remedy']}" for finding in findings)


@pytest.mark.usefixtures("serving")
def test_a_healthy_installation_passes_every_check(
    app: Flask, services: Services, simulator: Simulator, domain: str
) -> None:
    simulator.api("GET", f"/domains/{domain}")
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    services.dnsimple.create_webhook(services.webhook_url)
    note_version(services.database, "web")
    note_version(services.database, "worker")
    with services.database.write() as session:
        session.add(Worker(id="wrk_1", host="a", pid=1))
    records = {(f"{domain}.", "NS"): OURS, (f"{domain}.", "SOA"): SOA}
    with NameServer(records) as server:
        findings = doctor(app, "--domain", domain, "--resolver", server.address)
    settings_warning = {"settings": "warning"}  # the simulator is on this machine
    assert levels(findings) == dict.fromkeys(CHECKS | OF_A_DOMAIN, "ok") | settings_warning
    with services.database.read() as session:
        assert session.query(Event).filter(Event.name == "certcourier.probe").count() == 0


def test_every_check_is_documented() -> None:
    for name in CHECKS | OF_A_DOMAIN:
        assert f"| `{name}` |" in DOCS.read_text()


def test_it_purchases_nothing_and_changes_nothing_at_dnsimple(app: Flask, simulator: Simulator, domain: str) -> None:
    simulator.reset_calls()
    with NameServer({}) as resolver:
        app.test_cli_runner().invoke(args=["doctor", "--domain", domain, "--resolver", resolver.address])
    calls = simulator.calls()
    assert {call["method"] for call in calls} == {"GET"}
    assert len(calls) <= 8


def test_an_unavailable_database_is_critical_and_other_checks_still_run(simulator: Simulator, tmp_path: Path) -> None:
    url = "postgresql://postgres@127.0.0.1:1/none"
    app = create_app(make_settings(url, simulator.url, tmp_path / "var"))
    findings = doctor(app, "--only", "database", "--only", "files", status=1)
    assert levels(findings) == {"database": "critical", "files": "ok"}
    assert "DATABASE_URL" in findings[0]["remedy"]


def test_an_outdated_schema_is_critical(app: Flask, services: Services) -> None:
    downgrade(services.database, "base")
    assert "certcourier db upgrade" in only(app, "migrations")


def test_a_rejected_token_is_critical(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    settings = make_settings(database_url, simulator.url, tmp_path / "var", dnsimple_api_token="wrong-token")
    output = only(create_app(settings), "token")
    assert "critical: DNSimple rejects the token" in output
    assert "wrong-token" not in output


def test_a_token_of_another_account(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    settings = make_settings(database_url, simulator.url, tmp_path / "var", dnsimple_account_id=2020)
    assert f"the token belongs to account {ACCOUNT}, but DNSIMPLE_ACCOUNT_ID is 2020" in only(
        create_app(settings), "token"
    )


def test_a_missing_scope_is_named(app: Flask, simulator: Simulator, domain: str) -> None:
    refusal = {"message": "Permission Denied. Required Scope: webhooks:*:read"}
    simulator.fault(method="GET", path_template="/{account}/webhooks", action="status", status=403, json=refusal)
    output = only(app, "permissions", "--domain", domain)
    assert "ok: the token can list domains" in output
    assert "Required Scope: webhooks:*:read" in output


def test_a_missing_webhook_is_critical(app: Flask, simulator: Simulator) -> None:
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    assert "not registered" in only(app, "webhook")


def test_an_unreachable_public_url_is_critical(app: Flask) -> None:
    assert "does not answer" in only(app, "reachability")


def test_a_public_url_of_another_service_is_critical(app: Flask, settings: Settings) -> None:
    with serve(Flask("other"), settings.public_url):
        assert "not this service" in only(app, "reachability")


def test_a_host_with_another_database(app: Flask, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = create_app(settings.model_copy(update={"database_url": new_sqlite_database(folder)}))
    claim_installation(other.extensions["certcourier"].services)
    with serve(other, settings.public_url):
        assert "DATABASE_URL" in only(app, "reachability")


def test_no_worker_and_old_code(app: Flask, services: Services) -> None:
    note_version(services.database, "web")
    with services.database.write() as session:
        RUNNING_VERSIONS["worker"].set(session, "0123456789ab")
    output = only(app, "workers")
    assert "start `certcourier worker`" in output
    assert "worker run different code" in output
    assert len(code_version()) == 12


def test_failed_and_late_jobs(app: Flask, services: Services) -> None:
    now = datetime.now(UTC)
    with services.database.write() as session:
        session.add(Job(kind="refetch_key", args={}, state="dead", finished_at=now, last_error="no such key"))
        session.add(Job(kind="prune", args={}, run_at=now - timedelta(hours=1)))
    output = only(app, "jobs")
    assert "critical: A job failed permanently: refetch_key: no such key" in output
    assert "`certcourier jobs retry 1`" in output
    assert "warning: Jobs are late: prune: 1 job is due and not started" in output


def test_paused_calls_are_reported(app: Flask, services: Services) -> None:
    until = datetime.now(UTC) + timedelta(minutes=5)
    values = {"call_limit": 2400, "remaining": 7, "unknown_left": 5, "window_seconds": 3600}
    with services.database.write() as session:
        session.add(
            Quota(account_id=ACCOUNT, reset_at=until, blocked_until=until, blocked_reason="token rejected", **values)
        )
    assert "token rejected; calls resume automatically" in only(app, "quota", status=0)
    with services.database.write() as session:
        session.get_one(Quota, ACCOUNT).blocked_token = digest_token("another's")
    assert "paused" not in only(app, "quota", status=0), "our calls go through"


def test_a_check_with_a_rejected_token_pauses_no_other_calls(services: Services, settings: Settings) -> None:
    wrong = create_app(settings.model_copy(update={"dnsimple_api_token": SecretStr("wrong")}))
    output = only(wrong, "token")
    assert "DNSimple rejects the token" in output
    assert "see the check `token`" in only(wrong, "webhook")
    assert "calls are left" in only(wrong, "quota", status=0)
    with services.database.read() as session:
        assert session.get_one(Quota, ACCOUNT).blocked_until is None
    wrong.extensions["certcourier"].services.database.close()


def test_an_unwritable_destination_is_critical(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    file = tmp_path / "destinations.toml"
    file.write_text(f'[[destination]]\nname = "web"\nkind = "files"\npath = "{tmp_path}/file/below"\n')
    settings = make_settings(database_url, simulator.url, tmp_path / "var", destinations_file=file)
    assert "critical: web:" in only(create_app(settings), "destinations")


def test_a_secret_that_others_can_read_is_critical(app: Flask, settings: Settings) -> None:
    file = settings.data_dir / "webhook.secret"
    file.write_text("secret")
    file.chmod(0o644)
    assert f"chmod 600 {file}" in only(app, "files")
    file.chmod(0o600)
    old = KeyFile(settings.kek_file).copy_of("0" * 16)
    old.write_text("old")
    old.chmod(0o600)
    assert f"warning: {old} holds an old key-encryption key" in only(app, "files", status=0)


def test_a_readable_docker_secret_passes(
    app: Flask, settings: Settings, database_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    assert "only by their owner" in only(app, "files", status=0)
    with folder_in("/run/secrets") as place:
        shutil.copy(settings.kek_file, place / "kek")
        (place / "kek").chmod(0o444)
        more = {"key_encryption_key_file": place / "kek"}
        other = create_app(make_settings(database_url, simulator.url, tmp_path / "var", **more))
        assert "only by their owner" in only(other, "files", status=0)
        other.extensions["certcourier"].services.database.close()


def test_the_clock_is_compared_with_the_databases_and_dnsimples(app: Flask) -> None:
    output = only(app, "clock", status=0)
    assert "and the database's differ by" in output
    assert "and DNSimple's differ by" in output


class _LongAgo(BaseHTTPRequestHandler):
    """DNSimple's `whoami`, answered years ago; the simulator's server would write the true date."""

    def do_GET(self) -> None:
        body = json.dumps({"data": {"user": None, "account": {"id": ACCOUNT, "email": "a@example.com"}}}).encode()
        self.send_response_only(200)
        self.send_header("Date", "Mon, 02 Nov 2020 10:00:00 GMT")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_clock_far_off_dnsimples_is_critical(database_url: str, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _LongAgo) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        output = only(create_app(make_settings(database_url, url, tmp_path / "var")), "clock")
        thread.join()
    assert "ok: this machine's clock and the database's" in output
    assert "critical: this machine's clock and DNSimple's differ by" in output
    assert "NTP" in output


def test_overdue_renewals_are_reported(app: Flask, services: Services) -> None:
    day = timedelta(days=1)
    assert "ok" in only(app, "certificates", status=0)
    add_certificate(services, 1, left=20 * day, lifetime=90 * day)
    assert "warning: A renewal is overdue: l1:" in only(app, "certificates", status=0)
    add_certificate(services, 2, left=-day, lifetime=6 * day)
    assert "critical: A renewal is overdue: l2: certificate 2 expired" in only(app, "certificates")
    add_certificate(services, 3, left=5 * day, lifetime=6 * day, lineage=2)
    assert "critical" not in only(app, "certificates", status=0)


@pytest.mark.parametrize(
    ("records", "check", "level", "expected"),
    [
        ({"NS": ["ns1.elsewhere.example."]}, "delegation", "critical", "none of DNSimple's"),
        (
            {"NS": [*OURS, "ns1.elsewhere.example."]},
            "delegation",
            "critical",
            "also delegated to ns1.elsewhere.example",
        ),
        ({}, "delegation", "critical", "does not exist"),
        ({"CAA": ['0 issue "other.example"']}, "caa", "critical", "allows other.example, not letsencrypt.org"),
        ({"CAA": ['0 issue ";"']}, "caa", "critical", "allows no authority"),
        ({"CAA": ['0 issue "letsencrypt.org; validationmethods=dns-01"']}, "caa", "ok", "allows letsencrypt.org"),
        ({"CAA": ['0 issue "letsencrypt.org"', '0 issuewild ";"']}, "caa", "warning", "no wildcard"),
        ({"CAA": ['128 future "x"']}, "caa", "critical", "critical and unknown"),
        ({"CAA": ['0 iodef "mailto:a@example.com"']}, "caa", "ok", "allows letsencrypt.org"),
        ({"SOA": SOA, "DS": ["1 13 2 " + "AB" * 32]}, "dnssec", "ok", "is signed"),
        ({"SOA": SOA}, "dnssec", "ok", "is not signed"),
    ],
)
def test_dns_records_decide_the_finding_about_a_domain(
    dns_app: Flask, records: dict[str, list[str]], check: str, level: str, expected: str
) -> None:
    known = {("a.example.", kind): texts for kind, texts in records.items()}
    with NameServer(known) as server:
        arguments = ("--domain", "a.example", "--resolver", server.address)
        output = only(dns_app, check, *arguments, status=1 if level == "critical" else 0)
    assert output.startswith(level)
    assert expected in output


def test_the_nearest_caa_above_a_name_counts(dns_app: Flask) -> None:
    records = {("example.", "CAA"): ['0 issue "other.example"'], ("sub.a.example.", "NS"): OURS}
    with NameServer(records) as server:
        assert "CAA of example allows" in only(
            dns_app, "caa", "--domain", "sub.a.example", "--resolver", server.address
        )


def test_broken_dnssec_is_critical(dns_app: Flask) -> None:
    records = {("a.example.", "SOA"): SOA}
    with NameServer(records, bogus={"a.example."}) as server:
        output = only(dns_app, "dnssec", "--domain", "a.example", "--resolver", server.address)
    assert "DNSSEC of a.example is broken" in output


def test_a_silent_name_server_fails_only_its_own_checks(dns_app: Flask) -> None:
    with NameServer({}, silent={"a.example."}) as server:
        arguments = ("--domain", "a.example", "--resolver", server.address, "--only", "files", "--seconds", "0.2")
        findings = doctor(dns_app, *arguments, "--only", "caa", status=1)
    assert levels(findings) == {"files": "ok", "caa": "critical"}


@pytest.fixture
def dns_app(tmp_path: Path) -> Flask:
    """DNS checks read no database and call no other service."""
    return create_app(make_settings(f"sqlite:///{tmp_path}/none.db", "http://127.0.0.1:1", tmp_path / "var"))


def test_a_check_that_hangs_or_raises_is_reported_and_others_still_run(services: Services) -> None:
    hanging = threading.Event()
    checks = {
        "hangs": lambda _: [ok("waited")] if hanging.wait(30) else [],
        "breaks": lambda _: [ok(str(1 // 0))],
        "works": lambda _: [ok("fine")],
    }
    started: list[str] = []
    found = list(run_checks(CheckContext(services), checks, seconds=0.05, begin=started.append))
    hanging.set()
    assert [(finding.check, finding.level) for finding in found] == [
        ("hangs", "critical"),
        ("breaks", "critical"),
        ("works", "ok"),
    ]
    assert started == list(checks)


@pytest.mark.parametrize("resolver", ["name.example", "127.0.0.1:0", "127.0.0.1:x", "[::1]:x", "1.2.3"])
def test_a_resolver_is_an_address(dns_app: Flask, resolver: str) -> None:
    result = dns_app.test_cli_runner().invoke(args=["doctor", "--domain", "a.example", "--resolver", resolver])
    assert result.exit_code == 2


def test_domain_checks_require_a_domain(dns_app: Flask) -> None:
    assert dns_app.test_cli_runner().invoke(args=["doctor", "--only", "caa"]).exit_code == 2
