"""From an order to a secret in a real OpenBao server, by real processes; the server is away for a while."""

from __future__ import annotations

from pathlib import Path

from tests.support.fakes.deliveries import write_destination
from tests.support.fakes.fault_proxy import FaultProxy
from tests.support.fakes.vault import root_client, vault_server
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until


def test_a_certificate_and_its_renewal_reach_vault_although_it_was_down(
    database_url: str, tmp_path: Path, simulator: Simulator
) -> None:
    with vault_server(tmp_path) as (address, token), FaultProxy(address) as proxy:
        root = root_client(address, token)
        root.sys.enable_secrets_engine("kv", path="e2e", options={"version": "2"})
        (tmp_path / "token").touch(mode=0o600)
        (tmp_path / "token").write_text(token)
        file = write_destination(
            tmp_path, kind="vault", address=proxy.url, token_file=str(tmp_path / "token"), mount="e2e"
        )
        stack = Stack(database_url, tmp_path, simulator, destinations_file=file)
        try:
            stack.start()
            proxy.close()
            order = stack.order("customer.example")

            def waits() -> bool:
                found = stack.get(f"/certificates/{order['certificate_id']}")
                return bool(found) and "does not answer" in str(found["deliveries"])

            wait_until(waits, "the delivery waits for the server")
            proxy.open()
            delivered = stack.wait_delivered(order["certificate_id"], 60)
            renewed = stack.wait_delivered(simulator.renew(order["certificate_id"]), 60)

            kv = root.secrets.kv.v2
            path = "certcourier/www.customer.example"
            for version, certificate in ((1, delivered), (2, renewed)):
                found = kv.read_secret_version(path, version, mount_point="e2e", raise_on_deleted_version=True)["data"]
                assert found["data"]["fingerprint"] == certificate["fingerprint_sha256"]
            key = max(found["data"]["private_key"].splitlines(), key=len)
            logs = stack.log("web") + stack.log("worker")
            assert key not in logs
            assert token not in logs
            assert "Traceback" not in logs
        finally:
            stack.stop()
            root.sys.disable_secrets_engine("e2e")
