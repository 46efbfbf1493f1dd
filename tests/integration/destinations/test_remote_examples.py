"""What docs/destinations.md shows of the ssh and webhook destinations works as it is written there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.destinations.base import DestinationUnavailableError
from app.destinations.ssh.destination import SshConfig, SshDestination
from app.destinations.webhook.destination import WebhookConfig, WebhookDestination
from app.destinations.webhook.message import payload, read_public_key
from tests.support.bundles import AUTHORITY, bundle, expected_pem_files, issued_bundle, pem_files
from tests.support.ssh_server import ssh_server
from tests.support.stack import free_port, wait_until
from tests.support.x509 import pem

DOCS = Path(__file__).resolve().parents[3] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def example(kind: str) -> dict[str, Any]:
    documents = map(tomllib.loads, blocks("destinations.md", "toml"))
    entries = [entry for document in documents for entry in document.get("destination", [])]
    found: list[dict[str, Any]] = [entry for entry in entries if entry["kind"] == kind]
    assert len(found) == 1
    return found[0]


@contextmanager
def running(folder: Path, program: str, **environment: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, env=os.environ | environment, stderr=subprocess.DEVNULL
    ) as process:
        yield
        process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The receiver's: with secrets made as the page says, and a certificate of its own."""
    (script,) = [text for text in blocks("destinations.md", "sh") if "webhook.secret" in text]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    issued = AUTHORITY.issue("localhost")
    (tmp_path / "server.pem").write_text(issued.leaf + "".join(issued.chain))
    (tmp_path / "server.key").write_text(issued.key)
    (tmp_path / "ca.pem").write_text(pem(AUTHORITY.root))
    return tmp_path


def test_the_receiver_keeps_the_newest_certificate_with_its_key(folder: Path) -> None:
    port = free_port()
    (program,) = [text for text in blocks("destinations.md", "python") if "HTTPServer" in text]
    config = example("webhook") | {
        "url": f"https://localhost:{port}/certificates",
        "secret_file": folder / "webhook.secret",
        "encrypt_key_to": folder / "public.jwk",
        "ca_bundle": folder / "ca.pem",
        "allow_private": True,
    }

    def delivered(number: int) -> bool:
        try:
            WebhookDestination(WebhookConfig.model_validate(config)).deliver(given[number])
        except DestinationUnavailableError as error:
            assert "refused" in str(error), error  # noqa: PT017, it has not started yet
            return False
        return True

    given = {number: issued_bundle(number) for number in (1, 2)}
    with running(folder, program, PORT=str(port)):
        for number, newest in ((1, 1), (2, 2), (1, 2)):
            wait_until(lambda number=number: delivered(number), "the receiver answers")  # type: ignore[misc]
            kept = folder / "www.example.com.pem"
            assert kept.read_text() == given[newest].fullchain_pem + given[newest].key.reveal()
            assert kept.stat().st_mode & 0o777 == 0o600


def test_a_sealed_key_is_opened_as_the_decision_says(folder: Path) -> None:
    (program,) = blocks("decisions/0009-sealed-keys-in-webhooks.md", "python")
    public = read_public_key(folder / "public.jwk", "encrypt_key_to")
    message = json.loads(payload(issued_bundle(1), now=datetime.now(UTC), encrypt_to=public))
    names = {"data": message["data"], "private_jwk": json.loads((folder / "encryption-key.jwk").read_text())}
    exec(program, names)  # noqa: S102, what our own page says
    assert names["pem"].startswith(b"-----BEGIN EC PRIVATE KEY-----")


def test_the_ssh_example_delivers(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh") as machine:
        given = example("ssh")
        there = machine.config(command=["echo", *given["command"]])
        destination = SshDestination(SshConfig.model_validate(given | there))
        result = destination.deliver(bundle(1))
        assert result.detail.endswith("command succeeded: sudo systemctl reload nginx")
        assert pem_files(machine.home / "certificates" / "www.example.com") == expected_pem_files(1)
