"""From an event to another machine: the ssh destination driven by jobs, as the destinations file names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flask.testing import FlaskClient

from app.operations.health import check_destinations
from app.services import Services
from config import Settings
from tests.support.harness import drain, jobs, make_settings
from tests.support.orders import deliver_renewal, delivery_states, order, post_event
from tests.support.simulator_process import Simulator
from tests.support.ssh_server import SshServer, ssh_server


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "ssh") as machine:
        yield machine


@pytest.fixture
def settings(database_url: str, simulator: Simulator, tmp_path: Path, machine: SshServer) -> Settings:
    fields = machine.config() | {"kind": "ssh", "host_keys": machine.public_key}
    lines = [f"{name} = {value}" if name == "port" else f'{name} = "{value}"' for name, value in fields.items()]
    text = "\n".join(["[[destination]]", *lines]).replace(f'"{machine.public_key}"', f'["{machine.public_key}"]')
    destinations = tmp_path / "destinations.toml"
    destinations.write_text(text)
    return make_settings(database_url, simulator.url, tmp_path / "var", destinations_file=destinations)


def test_certificates_and_their_renewals_arrive_and_a_changed_host_key_is_reported(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, machine: SshServer
) -> None:
    check_destinations(services.destinations, services.time_limits)
    first = order(client, simulator, domain)["certificate_id"]
    post_event(client, simulator, domain, first)
    drain(services)
    slot = machine.home / "certificates" / f"www.{domain}"
    assert delivery_states(client, first)["far"] == ("delivered", f"127.0.0.1:{slot}")

    second = deliver_renewal(client, services, simulator, domain, first)
    leaf = x509.load_pem_x509_certificate((slot / "cert.pem").read_bytes())
    key = load_pem_private_key((slot / "privkey.pem").read_bytes(), password=None)
    assert key.public_key() == leaf.public_key()
    assert (slot / "current").readlink().name.endswith(f"-{second}")

    machine.stop()
    third = deliver_renewal(client, services, simulator, domain, second)
    assert delivery_states(client, third)["far"][0] == "failing"
    machine.new_host_key()
    machine.start()
    drain(services, ahead=True)
    state, detail = delivery_states(client, third)["far"]
    assert state == "failed"
    assert "not in host_keys; add it if the host was reinstalled, otherwise suspect an attack" in detail
    assert [job.state for job in jobs(services, "deliver")] == ["done", "done", "dead"]
