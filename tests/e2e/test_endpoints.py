"""A renewal that nginx has not loaded: detected by a worker, notified by real Apprise, and resolved by a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import update

from app.db.clock import db_now
from app.db.models import EndpointCheck
from app.jobs.kinds import JobKind
from tests.support.harness import make_services, make_settings
from tests.support.nginx import Nginx
from tests.support.receiver import Receiver
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

_DESTINATIONS = """
[[destination]]
name = "web"
kind = "files"
path = "{folder}/web"

[[endpoint]]
name = "nginx"
address = "127.0.0.1:{port}"
grace_seconds = 8
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def now(stack: Stack, *kinds: JobKind) -> None:
    """What the worker would do within the minute, at once."""
    settings = make_settings(stack.environment["DATABASE_URL"], stack.simulator.url, stack.folder / "var")
    services = make_services(settings)
    with services.database.write() as session:
        session.execute(update(EndpointCheck).values(next_check_at=db_now(-1)))
        for kind in kinds:
            services.queue.enqueue(session, kind)
    services.database.close()


def endpoint(stack: Stack, certificate_id: int) -> dict[str, Any]:
    found = stack.get(f"/certificates/{certificate_id}")["endpoints"]
    return found[0] if found else {"state": None}


def test_a_stale_server_is_an_alert_that_resolves(
    database_url: str, tmp_path: Path, simulator: Simulator, receiver: Receiver
) -> None:
    nginx = Nginx(tmp_path / "nginx", tmp_path / "web" / "www.customer.example")
    file = tmp_path / "destinations.toml"
    file.write_text(_DESTINATIONS.format(folder=tmp_path, port=nginx.port))
    options = {"job_lease_seconds": 2, "destinations_file": file, "notify_urls": receiver.url}
    stack = Stack(database_url, tmp_path, simulator, **options)
    try:
        stack.start()
        simulator.wait_for_webhooks(1)
        first = int(stack.order("customer.example")["certificate_id"])
        stack.wait_delivered(first)
        with nginx:
            wait_until(lambda: endpoint(stack, first)["state"] == "served", "the first certificate is served")
            second = simulator.renew(first)
            stack.wait_delivered(second)
            wait_until(lambda: endpoint(stack, second)["state"] == "stale", "the server is stale")
            now(stack, JobKind.EVALUATE_ALERTS)
            wait_until(lambda: receiver.messages, "the alert is notified")
            renewed = x509.load_pem_x509_certificate(stack.get(f"/certificates/{second}")["certificate_pem"].encode())
            nginx.reload(renewed.public_bytes(Encoding.DER))
            now(stack, JobKind.CHECK_ENDPOINT)
            wait_until(lambda: endpoint(stack, second)["state"] == "served", "the new certificate is served")
            now(stack, JobKind.EVALUATE_ALERTS)
            wait_until(lambda: len(receiver.messages) == 2, "the recovery is notified")
        alert, recovery = receiver.messages
        assert alert["title"] == "Certcourier at 127.0.0.1: An endpoint serves the wrong certificate"
        assert f"the older certificate {first}" in alert["message"]
        assert recovery["title"] == "Certcourier at 127.0.0.1: Resolved: An endpoint served the wrong certificate"
        worker = psutil.Process(stack.processes["worker"].pid)
        wait_until(lambda: not worker.children(), "the process that sent it has ended")
        assert sum(stack.memory().values()) < 250
        assert "very-secret" not in stack.log("worker") + stack.log("web")
    finally:
        stack.stop()
