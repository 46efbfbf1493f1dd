"""From POST /issue_certificate to a certificate on disk, by real processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import requests

from tests.support.harness import WEBHOOK_SECRET
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

pytestmark = pytest.mark.both_databases


def openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stdout


def test_a_certificate_from_the_order_to_the_disk_and_its_renewal(
    stack: Stack, simulator: Simulator, tmp_path: Path
) -> None:
    """Every event comes three times; four calls for the certificate, two for its renewal."""
    simulator.wait_for_webhooks(1)
    simulator.reset_calls()
    order = stack.order("customer.example", san=["shop"])
    delivered = stack.wait_delivered(order["certificate_id"])
    simulator.wait_until_delivered()
    assert [call["path_template"].rpartition("/")[2] for call in simulator.certificate_calls()] == [
        "letsencrypt", "issue", "download", "private_key",
    ]  # fmt: skip
    assert delivered["names"] == ["customer.example", "shop.customer.example", "www.customer.example"]

    folder = tmp_path / "var" / "certificates" / "www.customer.example"
    root = tmp_path / "root.pem"
    root.write_text(simulator.root_pem())
    openssl("verify", "-CAfile", str(root), "-untrusted", str(folder / "chain.pem"), str(folder / "cert.pem"))
    fingerprint = openssl("x509", "-in", str(folder / "fullchain.pem"), "-noout", "-fingerprint", "-sha256")
    assert fingerprint.strip().rpartition("=")[2].replace(":", "").lower() == delivered["fingerprint_sha256"]
    assert openssl("pkey", "-in", str(folder / "privkey.pem"), "-pubout") == openssl(
        "x509", "-in", str(folder / "cert.pem"), "-noout", "-pubkey"
    )

    simulator.reset_calls()
    renewal = stack.wait_delivered(simulator.renew(order["certificate_id"]))
    simulator.wait_until_delivered()
    assert len(simulator.certificate_calls()) == 2
    assert renewal["lineage"] == delivered["lineage"]
    assert (folder / "cert.pem").read_text() == renewal["certificate_pem"]

    timeline = [line["step"] for line in stack.get(f"/orders/{order['order_id']}")["timeline"]]
    assert timeline == [
        "ordered", "purchased", "issuance requested", "event received", "fetched", "verified", "delivered",
    ]  # fmt: skip

    logs = stack.log("web") + stack.log("worker")
    assert WEBHOOK_SECRET not in logs
    assert max((folder / "privkey.pem").read_text().splitlines(), key=len) not in logs
    assert "Traceback" not in logs
    assert stack.stop() == {"web": 0, "worker": 0}
    stack.processes.clear()


def test_waiting_for_the_certificate_to_be_issued(stack: Stack) -> None:
    answer = requests.post(
        f"{stack.url}/issue_certificate",
        json={"domain": "customer.example"},
        headers={"Authorization": f"Bearer {stack.token}", "Prefer": "wait=30"},
        timeout=60,
    )
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert answer.json()["data"]["state"] == "issued"


def test_what_was_acknowledged_survives_the_death_of_every_process(stack: Stack, simulator: Simulator) -> None:
    """The worker is dead when the event comes; then the web server dies too; both are started again."""
    simulator.wait_for_webhooks(1)
    stack.kill("worker")
    order = stack.order("customer.example")
    simulator.wait_until_delivered()
    stack.kill("web")
    assert simulator.calls()[-1]["path_template"].endswith("/issue")
    stack.start_web()
    stack.start_worker()
    wait_until(stack.is_ready, "ready", 60)
    delivered = stack.wait_delivered(order["certificate_id"])
    assert delivered["order_id"] == order["order_id"]


def test_two_workers_register_the_webhook_once(stack: Stack, simulator: Simulator) -> None:
    stack.start_worker("second worker")
    wait_until(lambda: "webhook registered" in stack.log("worker") + stack.log("second worker"), "webhook registered")
    order = stack.order("customer.example")
    stack.wait_delivered(order["certificate_id"])
    assert len(simulator.api("GET", "/webhooks")) == 1
    assert stack.flask("webhooks", "list", "--json").count('"owner": "certcourier"') == 1


def test_an_idle_worker_starts_a_job_within_milliseconds(stack: Stack, simulator: Simulator) -> None:
    """Ten jobs, each long after the one before has ended: none waits for the five seconds of polling."""
    simulator.wait_for_webhooks(1)
    domain_id = simulator.domain_id("customer.example")
    ids = [simulator.purchase("customer.example", name=f"n{number}") for number in range(10)]
    for certificate_id in ids:
        simulator.issue("customer.example", certificate_id)  # its event follows
    for certificate_id in ids:
        stack.wait_delivered(certificate_id, seconds=4.5)
    assert domain_id > 0
