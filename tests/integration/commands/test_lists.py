"""`certcourier orders`, `certificates`, `events`, `quota` and what is common to all commands."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.db.models import Event, Job, Quota
from app.services import Services
from config import Settings
from tests.support.command_line import run
from tests.support.harness import ACCOUNT, TOKEN, WEBHOOK_SECRET, drain, event, jobs
from tests.support.records import add_certificate
from tests.support.simulator_process import ROOT, Simulator

pytestmark = pytest.mark.both_databases

ESCAPE = "\x1b"


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DNSIMPLE_API_TOKEN": TOKEN,
        "DNSIMPLE_ACCOUNT_ID": str(ACCOUNT),
        "PUBLIC_URL": settings.public_url,
        "DATABASE_URL": settings.database_url,
        "DATA_DIR": str(settings.data_dir),
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        **more,
    }


def on_a_terminal(settings: Settings, *arguments: str, **more: str) -> str:
    """What a command writes when it is a terminal that it writes to."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "flask", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment(settings, TERM="xterm", **more), stdout=its, check=True)
    os.close(its)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how Linux reports the end
        pass
    os.close(ours)
    return written.decode()


def test_an_order_is_listed_and_shown_with_its_timeline(
    app: Flask, client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    order = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    simulator.wait_until_issued(domain, order["certificate_id"])
    client.post(f"/dnsimple/events/{WEBHOOK_SECRET}", json=event(order["certificate_id"], simulator.domain_id(domain)))
    drain(services)
    number = str(order["certificate_id"])

    assert f"www.{domain}" in run(app, "orders", "list", "--domain", domain.upper(), "--state", "fetched")
    assert run(app, "orders", "list", "--state", "failed") == "No matching orders.\n"
    shown = run(app, "orders", "show", order["order_id"])
    assert [line.split()[1] for line in shown.partition("timeline\n")[2].splitlines()[1:]][:3] == [
        "ordered",
        "purchased",
        "issuance",
    ]
    assert (
        json.loads(run(app, "orders", "show", order["order_id"], "--json"))
        == (client.get(f"/orders/{order['order_id']}").json["data"])
    )

    assert "files delivered" in run(app, "certificates", "list")
    shown = run(app, "certificates", "show", number)
    assert "fetched" in shown
    assert "PEM" not in shown
    document = json.loads(run(app, "certificates", "show", number, "--json"))
    assert document == client.get(f"/certificates/{number}").json["data"]
    assert "PRIVATE KEY" not in json.dumps(document)

    assert "certificate.issue" in run(app, "events", "list", "--certificate", number)
    assert "No matching events" in run(app, "events", "list", "--certificate", "1")
    remaining = json.loads(run(app, "quota", "show", "--json"))["remaining"]
    assert 0 < remaining < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("orders", "show", "ord_none"), "no order has the ID"),
        (("certificates", "show", "17"), "no certificate has the ID"),
        (("jobs", "show", "17"), "no job has the ID"),
        (("quota", "show"), "the quota is not known yet"),
    ],
)
def test_not_found_is_status_1(app: Flask, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in run(app, *arguments, status=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("orders", "list", "--domain", "no domain"),
        ("orders", "list", "--limit", "0"),
        ("certificates", "show", "x"),
        ("certificates", "show", "9223372036854775808"),
        ("jobs", "show", "9223372036854775808"),
        ("certificates", "list", "--expires-within", "3", "--state", "issued"),
        ("jobs", "retry"),
        ("jobs", "retry", "1", "--all-dead"),
        ("jobs", "retry", "1", "--kind", "prune"),
        ("jobs", "list", "--kind", "nonsense"),
        ("orders", "list", "--state", "nonsense"),
        ("certificates", "list", "--state", "nonsense"),
    ],
)
def test_wrong_usage_is_status_2(app: Flask, arguments: tuple[str, ...]) -> None:
    run(app, *arguments, status=2)


def test_certificates_about_to_expire_are_listed_soonest_first(app: Flask, services: Services) -> None:
    day = timedelta(days=1)
    add_certificate(services, 1, left=2 * day, lifetime=90 * day)  # replaced by the next
    add_certificate(services, 2, left=80 * day, lifetime=90 * day, lineage=1)
    add_certificate(services, 3, left=5 * day, lifetime=6 * day)
    add_certificate(services, 4, left=-day, lifetime=64 * day)
    rows = json.loads(run(app, "certificates", "list", "--expires-within", "7", "--json"))
    assert [row["certificate_id"] for row in rows] == [4, 3]


def test_paused_calls_are_status_1(app: Flask, services: Services) -> None:
    now = datetime.now(UTC)
    values: dict[str, Any] = {"call_limit": 2400, "remaining": 7, "unknown_left": 5, "window_seconds": 3600}
    with services.database.write() as session:
        until = now + timedelta(minutes=5)
        session.add(
            Quota(account_id=ACCOUNT, reset_at=until, blocked_until=until, blocked_reason="token rejected", **values)
        )
    assert "token rejected" in run(app, "quota", "show", status=1)
    with services.database.write() as session:
        session.get_one(Quota, ACCOUNT).blocked_token = "another's"
    assert "token rejected" not in run(app, "quota", "show", status=0)


def test_all_dead_jobs_of_a_kind_are_retried(app: Flask, services: Services) -> None:
    with services.database.write() as session:
        for kind in ("prune", "prune", "reconcile"):
            session.add(Job(kind=kind, args={}, state="dead", finished_at=datetime.now(UTC)))
    assert run(app, "jobs", "retry", "--all-dead", "--kind", "prune") == "2 jobs requeued.\n"
    assert [job.state for job in jobs(services)] == ["ready", "ready", "dead"]
    assert run(app, "jobs", "retry", "--all-dead") == "1 job requeued.\n"
    assert "background" in run(app, "jobs", "show", "1") or "normal" in run(app, "jobs", "show", "1")


def test_untrusted_text_cannot_control_the_terminal(app: Flask, services: Services) -> None:
    with services.database.write() as session:
        session.add(Event(request_identifier=f"a{ESCAPE}[2J", name="evil\nname\x9b", outcome="ignored"))
    shown = run(app, "events", "list")
    assert len(shown.splitlines()) == 2
    assert all(letter.isprintable() for letter in shown.replace("\n", ""))


def test_on_a_terminal_long_texts_are_wrapped_and_coloured_unless_no_color_is_set(
    settings: Settings, services: Services
) -> None:
    words = " ".join(f"word{number}" for number in range(40))
    with services.database.write() as session:
        session.add(Job(kind="prune", args={}, state="dead", last_error=words, finished_at=datetime.now(UTC)))
    coloured = on_a_terminal(settings, "jobs", "list", COLUMNS="100")
    assert ESCAPE in coloured
    plain = on_a_terminal(settings, "jobs", "list", COLUMNS="100", NO_COLOR="1")
    assert f"{ESCAPE}[31m" not in plain
    assert f"{ESCAPE}[1;31m" not in plain
    assert max(len(re.sub(rf"{ESCAPE}\[[0-9;]*m", "", line)) for line in plain.splitlines()) <= 100
    assert "word39" in plain


def completing(folder: Path, **more: str) -> str:
    """The completions of `flask` for a shell; it reads no database."""
    settings = {"DNSIMPLE_API_TOKEN": TOKEN, "DNSIMPLE_ACCOUNT_ID": "1010", "PUBLIC_URL": "https://certs.example.com"}
    program = str(Path(sys.executable).with_name("flask"))
    asked = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder), **settings, **more}
    made = subprocess.run([program], cwd=ROOT, env=asked, capture_output=True, text=True, check=False)
    assert made.stdout, made.stderr
    return made.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_generated(tmp_path: Path, shell: str) -> None:
    assert f"_FLASK_COMPLETE={shell}_complete" in completing(tmp_path, _FLASK_COMPLETE=f"{shell}_source")


def test_commands_are_completed(tmp_path: Path) -> None:
    more = {"_FLASK_COMPLETE": "bash_complete", "COMP_WORDS": "certcourier certificates ", "COMP_CWORD": "2"}
    found = {line.partition(",")[2] for line in completing(tmp_path, **more).splitlines()}
    assert found >= {"list", "show"}
