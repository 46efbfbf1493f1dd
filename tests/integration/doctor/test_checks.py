"""`flask doctor`: each check finds what is wrong, and says what to do."""

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
    for one in findings:
        found[one["check"]] = max(found.get(one["check"], "ok"), one["level"], key=ranks.index)
    return found


def only(app: Flask, check: str, *arguments: str, status: int = 1) -> str:
    """All that one check says."""
    findings = doctor(app, "--only", check, *arguments, status=status)
    return "\n".join(f"{one['level']}: {one['meaning']}; {one['remedy']}" for one in findings)


@pytest.mark.usefixtures("serving")
def test_all_is_well(app: Flask, services: Services, simulator: Simulator, domain: str) -> None:
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


def test_it_buys_nothing_and_changes_nothing_at_dnsimple(app: Flask, simulator: Simulator, domain: str) -> None:
    simulator.reset_calls()
    app.test_cli_runner().invoke(args=["doctor", "--domain", domain, "--resolver", "127.0.0.1:1"])
    calls = simulator.calls()
    assert {call["method"] for call in calls} == {"GET"}
    assert len(calls) <= 8


def test_a_database_that_is_away_is_a_problem_and_the_other_checks_go_on(simulator: Simulator, tmp_path: Path) -> None:
    url = "postgresql://postgres@127.0.0.1:1/none"
    app = create_app(make_settings(url, simulator.url, tmp_path / "var"))
    findings = doctor(app, "--only", "database", "--only", "files", status=1)
    assert levels(findings) == {"database": "critical", "files": "ok"}
    assert "DATABASE_URL" in findings[0]["remedy"]


def test_tables_that_are_not_current(app: Flask, services: Services) -> None:
    downgrade(services.database, "base")
    assert "flask db upgrade" in only(app, "migrations")


def test_a_token_that_is_rejected(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    settings = make_settings(database_url, simulator.url, tmp_path / "var", dnsimple_api_token="wrong-token")
    said = only(create_app(settings), "token")
    assert "critical: DNSimple rejects the token" in said
    assert "wrong-token" not in said


def test_a_token_of_another_account(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    settings = make_settings(database_url, simulator.url, tmp_path / "var", dnsimple_account_id=2020)
    assert f"the token belongs to account {ACCOUNT}, but DNSIMPLE_ACCOUNT_ID is 2020" in only(
        create_app(settings), "token"
    )


def test_a_missing_scope_is_named(app: Flask, simulator: Simulator, domain: str) -> None:
    refusal = {"message": "Permission Denied. Required Scope: webhooks:*:read"}
    simulator.fault(method="GET", path_template="/{account}/webhooks", action="status", status=403, json=refusal)
    said = only(app, "permissions", "--domain", domain)
    assert "ok: the token can list domains" in said
    assert "Required Scope: webhooks:*:read" in said


def test_a_webhook_that_is_missing(app: Flask, simulator: Simulator) -> None:
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    assert "not registered" in only(app, "webhook")


def test_a_public_url_where_nobody_answers(app: Flask) -> None:
    assert "does not answer" in only(app, "reachability")


def test_a_public_url_that_is_something_else(app: Flask, settings: Settings) -> None:
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
    said = only(app, "workers")
    assert "start `flask worker`" in said
    assert "worker run different code" in said
    assert len(code_version()) == 12


def test_failed_and_late_jobs(app: Flask, services: Services) -> None:
    now = datetime.now(UTC)
    with services.database.write() as session:
        session.add(Job(kind="refetch_key", args={}, state="dead", finished_at=now, last_error="no such key"))
        session.add(Job(kind="prune", args={}, run_at=now - timedelta(hours=1)))
    output = only(app, "jobs")
    assert "critical: A job failed permanently: refetch_key: no such key" in output
    assert "`flask jobs retry 1`" in output
    assert "warning: Jobs are late: prune: 1 job is due and not started" in output


def test_calls_that_are_stopped(app: Flask, services: Services) -> None:
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


def test_looking_with_a_rejected_token_stops_nobody(services: Services, settings: Settings) -> None:
    wrong = create_app(settings.model_copy(update={"dnsimple_api_token": SecretStr("wrong")}))
    said = only(wrong, "token")
    assert "DNSimple rejects the token" in said
    assert "see the check `token`" in only(wrong, "webhook")
    assert "calls are left" in only(wrong, "quota", status=0)
    with services.database.read() as session:
        assert session.get_one(Quota, ACCOUNT).blocked_until is None
    wrong.extensions["certcourier"].services.database.close()


def test_a_destination_that_cannot_be_written(database_url: str, simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    file = tmp_path / "destinations.toml"
    file.write_text(f'[[destination]]\nname = "web"\nkind = "files"\npath = "{tmp_path}/file/below"\n')
    settings = make_settings(database_url, simulator.url, tmp_path / "var", destinations_file=file)
    assert "critical: web:" in only(create_app(settings), "destinations")


def test_a_secret_that_others_can_read(app: Flask, settings: Settings) -> None:
    file = settings.data_dir / "webhook.secret"
    file.write_text("secret")
    file.chmod(0o644)
    assert f"chmod 600 {file}" in only(app, "files")
    file.chmod(0o600)
    old = KeyFile(settings.kek_file).copy_of("0" * 16)
    old.write_text("old")
    old.chmod(0o600)
    assert f"warning: {old} holds an old key-encryption key" in only(app, "files", status=0)


def test_a_secret_that_docker_hands_out_to_everybody_is_no_concern(
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


def test_clocks_are_compared_with_the_databases_and_dnsimples(app: Flask) -> None:
    said = only(app, "clock", status=0)
    assert "and the database's differ by" in said
    assert "and DNSimple's differ by" in said


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


def test_a_clock_that_is_far_off_dnsimples(database_url: str, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _LongAgo) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        said = only(create_app(make_settings(database_url, url, tmp_path / "var")), "clock")
        thread.join()
    assert "ok: this machine's clock and the database's" in said
    assert "critical: this machine's clock and DNSimple's differ by" in said
    assert "NTP" in said


def test_certificates_that_were_not_renewed_in_time(app: Flask, services: Services) -> None:
    day = timedelta(days=1)
    assert "ok" in only(app, "certificates", status=0)
    add_certificate(services, 1, left=20 * day, lifetime=90 * day)
    assert "warning: A renewal is overdue: l1:" in only(app, "certificates", status=0)
    add_certificate(services, 2, left=-day, lifetime=6 * day)
    assert "critical: A renewal is overdue: l2: certificate 2 expired" in only(app, "certificates")
    add_certificate(services, 3, left=5 * day, lifetime=6 * day, lineage=2)
    assert "critical" not in only(app, "certificates", status=0)


@pytest.mark.parametrize(
    ("records", "check", "level", "says"),
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
def test_what_the_dns_says_of_a_domain(
    dns_app: Flask, records: dict[str, list[str]], check: str, level: str, says: str
) -> None:
    known = {("a.example.", kind): texts for kind, texts in records.items()}
    with NameServer(known) as server:
        arguments = ("--domain", "a.example", "--resolver", server.address)
        said = only(dns_app, check, *arguments, status=1 if level == "critical" else 0)
    assert said.startswith(level)
    assert says in said


def test_the_nearest_caa_above_a_name_counts(dns_app: Flask) -> None:
    records = {("example.", "CAA"): ['0 issue "other.example"'], ("sub.a.example.", "NS"): OURS}
    with NameServer(records) as server:
        assert "CAA of example allows" in only(
            dns_app, "caa", "--domain", "sub.a.example", "--resolver", server.address
        )


def test_a_broken_chain_of_trust(dns_app: Flask) -> None:
    records = {("a.example.", "SOA"): SOA}
    with NameServer(records, bogus={"a.example."}) as server:
        said = only(dns_app, "dnssec", "--domain", "a.example", "--resolver", server.address)
    assert "DNSSEC of a.example is broken" in said


def test_a_name_server_that_says_nothing_costs_its_checks_only(dns_app: Flask) -> None:
    with NameServer({}, silent={"a.example."}) as server:
        arguments = ("--domain", "a.example", "--resolver", server.address, "--only", "files", "--seconds", "0.2")
        findings = doctor(dns_app, *arguments, "--only", "caa", status=1)
    assert levels(findings) == {"files": "ok", "caa": "critical"}


@pytest.fixture
def dns_app(tmp_path: Path) -> Flask:
    """DNS checks look at no database and call nobody else."""
    return create_app(make_settings(f"sqlite:///{tmp_path}/none.db", "http://127.0.0.1:1", tmp_path / "var"))


def test_a_check_that_hangs_or_breaks_is_a_finding_beside_the_others(services: Services) -> None:
    hanging = threading.Event()
    checks = {
        "hangs": lambda _: [ok("waited")] if hanging.wait(30) else [],
        "breaks": lambda _: [ok(str(1 // 0))],
        "works": lambda _: [ok("fine")],
    }
    begun: list[str] = []
    found = list(run_checks(CheckContext(services), checks, seconds=0.05, begin=begun.append))
    hanging.set()
    assert [(one.check, one.level) for one in found] == [("hangs", "critical"), ("breaks", "critical"), ("works", "ok")]
    assert begun == list(checks)


@pytest.mark.parametrize("resolver", ["name.example", "127.0.0.1:0", "127.0.0.1:x", "[::1]:x", "1.2.3"])
def test_a_resolver_is_an_address(dns_app: Flask, resolver: str) -> None:
    result = dns_app.test_cli_runner().invoke(args=["doctor", "--domain", "a.example", "--resolver", resolver])
    assert result.exit_code == 2


def test_checks_of_a_domain_want_one(dns_app: Flask) -> None:
    assert dns_app.test_cli_runner().invoke(args=["doctor", "--only", "caa"]).exit_code == 2
