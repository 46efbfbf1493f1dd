"""A renewal reaches those who connect: real nginx, HAProxy and Caddy under load, reloaded by a command destination."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.databases import new_sqlite_database
from tests.support.servers import Caddy, HAProxy, Nginx, renew_under_load
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack


@pytest.mark.parametrize("kind", [Nginx, HAProxy, Caddy])
def test_a_renewal_under_load_fails_no_handshake_and_is_served(
    kind: type[Nginx | HAProxy | Caddy], tmp_path: Path, simulator: Simulator
) -> None:
    server = kind(tmp_path)
    file = tmp_path / "destinations.toml"
    file.write_text(server.destinations())
    stack = Stack(new_sqlite_database(tmp_path), tmp_path, simulator, destinations_file=file)
    try:
        found = renew_under_load(server, stack, simulator, renewals=2)
    finally:
        server.stop()
        stack.stop()
    # Caddy reopens its listener: what waits in the old one's queue at that moment is reset. The others hand it on.
    resets = [failure for failure in found.failures if "ConnectionResetError" in failure] if kind is Caddy else []
    assert found.failures == resets
    assert len(resets) <= 2, "one a reload"
    assert len(found.event_to_served) == 2
    assert found.handshakes > 100
    logs = stack.log("worker")
    key_lines = [
        line
        for path in tmp_path.rglob("*")
        if path.name in {"privkey.pem", "combined"} and path.is_file()
        for line in path.read_text().split("PRIVATE KEY-----")[1].splitlines()
        if len(line) > 40
    ]
    assert key_lines
    assert not any(line in logs for line in key_lines)
