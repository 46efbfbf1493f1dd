"""Secrets are replaced under load, by real processes, and nothing is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import select

from app.db.database import Database
from app.db.models import Certificate, Event
from app.services import build_services
from tests.support.encrypted_keys import decrypt_key
from tests.support.harness import ACCOUNT, TOKEN, WEBHOOK_SECRET, make_settings
from tests.support.simulator_process import Simulator
from tests.support.stack import ROOT, Stack, wait_until
from tests.support.traffic import Traffic, check_done_once, make_stack


@pytest.fixture
def simulator(retrying_simulator: Simulator) -> Simulator:
    return retrying_simulator


@pytest.fixture
def stack(database_url: str, tmp_path: Path, simulator: Simulator) -> Iterator[Stack]:
    stack = make_stack(database_url, tmp_path, simulator)
    stack.environment["FAILED_LOGINS_PER_MINUTE"] = "1000"
    try:
        yield stack.start()
    finally:
        stack.kill_all()


@pytest.mark.timeout(300)  # with everything that is started here, on a machine that others use too
def test_both_secrets_are_rotated_under_load_and_nothing_is_lost(
    stack: Stack, simulator: Simulator, database_url: str, tmp_path: Path
) -> None:
    """Orders come in, certificates are issued and their events are delivered twice, while two workers run."""
    stack.start_worker("second worker")
    wait_until(lambda: "worker started" in stack.log("second worker"), "started")
    simulator.wait_for_webhooks(1)
    (before,) = simulator.api("GET", "/webhooks")
    old_key = (tmp_path / "var" / "key-encryption.key").read_text()
    posted: set[str] = set()
    with Traffic(stack, "web") as traffic:
        for command in (("keys", "rotate"), ("webhooks", "rotate")):
            traffic.wait_for(2)
            stack.flask(*command)
            for secret in {WEBHOOK_SECRET, newest_secret(simulator)}:
                posted.add(post_event(stack, secret))
        traffic.wait_for(2)
    check_done_once(stack, simulator, traffic.accepted)
    assert set(traffic.statuses) <= {202, 409}
    simulator.wait_until_delivered()
    (after,) = simulator.api("GET", "/webhooks")
    assert after["url"] != before["url"]
    assert after["suppressed_at"] is None
    new_key = (tmp_path / "var" / "key-encryption.key").read_text()
    assert len(new_key.split()) == 1
    assert new_key != old_key

    database = Database(database_url)
    with database.read() as session:
        assert posted <= set(session.scalars(select(Event.request_identifier)))
        installed = session.scalars(select(Certificate).where(Certificate.encrypted_key.is_not(None))).all()
    services = build_services(make_settings(database_url, simulator.url, tmp_path / "var"))
    for certificate in installed:
        key = decrypt_key(services.encryptor, certificate.id, certificate.encrypted_key or b"")
        assert (
            key
            == simulator.api("GET", f"/domains/{certificate.domain}/certificates/{certificate.id}/private_key")[
                "private_key"
            ]
        )
    assert len(installed) == len(traffic.accepted)
    services.database.close()
    database.close()
    logs = stack.log("web") + stack.log("worker") + stack.log("second worker")
    for secret in (WEBHOOK_SECRET, after["url"].rpartition("/")[2], old_key.strip(), new_key.strip()):
        assert secret not in logs
    assert "Traceback" not in logs


def newest_secret(simulator: Simulator) -> str:
    (hook,) = simulator.api("GET", "/webhooks")
    return str(hook["url"]).rpartition("/")[2]


def post_event(stack: Stack, secret: str) -> str:
    """An event that causes no job; its identifier, once it is acknowledged."""
    identifier = str(uuid.uuid4())
    body = {"name": "domain.create", "request_identifier": identifier, "account": {"id": ACCOUNT}, "data": {}}
    answer = requests.post(f"{stack.url}/dnsimple/events/{secret}", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return identifier


def test_the_secret_is_in_no_log_of_the_web_server_whatever_is_asked(stack: Stack) -> None:
    """gunicorn itself answers what it cannot parse, and it answers before our code is asked."""
    path = f"/dnsimple/events/{WEBHOOK_SECRET}"
    for method, body in (("POST", b"{"), ("GET", b""), ("PUT", b"x")):
        requests.request(method, stack.url + path, data=body, timeout=30)
    requests.post(f"{stack.url}{path}x", data=b"{}", timeout=30)
    requests.post(f"{stack.url}{path}?{WEBHOOK_SECRET}", data=b"{}", timeout=30)
    requests.post(f"{stack.url}{path}", data=b"x" * 300_000, timeout=30)
    for malformed in (
        f"POST {path} HTTP/9.9\r\n\r\n",
        f"POST {path}\r\n\r\n",
        f"P\x00ST {path} HTTP/1.1\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nContent-Length: {WEBHOOK_SECRET}\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {WEBHOOK_SECRET}\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort",
        f"POST {path}{'x' * 5000} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"POST {path} HTTP/1.1\r\n{WEBHOOK_SECRET}\r\n\r\n",
        f"POST {path} HTTP/1.1\r\n" + f"X: {WEBHOOK_SECRET}\r\n" * 100 + "\r\n",
    ):
        send_raw(stack, malformed.encode("latin-1"))
    assert stack.stop_one("web") == 0
    assert "/dnsimple/events/<secret>" in stack.log("web")
    assert WEBHOOK_SECRET not in stack.log("web")


def send_raw(stack: Stack, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def test_a_web_server_that_cannot_start_prints_no_secret(stack: Stack) -> None:
    """The words of a crash at the start, with every secret set and one setting wrong."""
    key = "dmVyeS1zZWNyZXQtdmVyeS1zZWNyZXQtdmVyeS1zZWM="
    for wrong in ({"PORT": "none"}, {"DNSIMPLE_ACCOUNT_ID": "4711"}, {"DATABASE_URL": "mysql://u:secret-password@h/d"}):
        environment = stack.environment | {"KEY_ENCRYPTION_KEY": key} | wrong
        run = subprocess.run(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        output = run.stdout + run.stderr
        assert run.returncode != 0
        assert "Certcourier cannot start" in output
        for secret in (TOKEN, WEBHOOK_SECRET, key, "secret-password"):
            assert secret not in output
