"""`make run` as a newcomer meets it."""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from config import Settings
from tests.e2e.stack import ROOT, free_port, wait_until

pytestmark = pytest.mark.e2e


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's settings, and ports that are free."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "VAR_DIR": str(folder / "var"),
        "PORT": str(free_port()),
        "SIMULATOR_PORT": str(free_port()),
        "DNSIMPLE_API_TOKEN": "",
        **more,
    }


@contextmanager
def launched(folder: Path, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = folder / "terminal"
    with output.open("wb") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.launch"], cwd=ROOT, env=env, stdout=terminal, stderr=terminal
        )
    try:
        yield process, output
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def says(output: Path, text: str) -> bool:
    return text in output.read_text()


def test_the_demo_tells_its_story_and_goes_on_where_it_was(tmp_path: Path) -> None:
    env = environment(tmp_path)
    for run in (1, 2):
        with launched(tmp_path, env) as (process, output):
            wait_until(functools.partial(says, output, "Ctrl-C stops everything"), "the end of the story", 90)
            text = output.read_text()
            assert "DNSimple is SIMULATED" in text
            steps = re.findall(r"^  [\d:.]{12}  (\w+(?: received)?)", text, re.MULTILINE)
            assert steps == [
                "ordered",
                "purchased",
                "requested",
                "event received",
                "downloaded",
                "verified",
                "delivered",
            ]
            assert ("from an earlier run" in text) == (run == 2)

            look = re.search(r"openssl x509 .*", text)
            assert look is not None
            shown = subprocess.run(shlex.split(look[0]), check=True, capture_output=True, text=True, cwd=ROOT).stdout
            assert "DNS:www.customer.example" in shown

            curl = re.search(r"(?s)curl -i .*?\]}'", text)
            assert curl is not None
            url, token = re.search(r"http://\S+", curl[0]), re.search(r"Bearer (\S+)'", curl[0])
            body = re.search(r"-d '(.*)'", curl[0])
            assert url is not None and token is not None and body is not None  # noqa: PT018, one question
            headers = {"Authorization": f"Bearer {token[1]}", "Prefer": "wait=30", "Content-Type": "application/json"}
            answer = requests.post(url[0], data=body[1], headers=headers, timeout=60)
            assert answer.status_code == 202
            assert answer.json()["data"]["state"] == "issued"
        assert process.returncode == 0
        assert "Stopped." in output.read_text()
        for port in (env["PORT"], env["SIMULATOR_PORT"]):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "something was left running"


@pytest.mark.parametrize("name", ["PORT", "SIMULATOR_PORT"])
def test_a_busy_port_gets_a_clear_message(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        env = environment(tmp_path, **{name: str(port)})
        run = subprocess.run(
            [sys.executable, "-m", "app.launch"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    assert run.returncode == 1
    assert f"port {port} is in use" in run.stderr
    assert f"{name}={port + 100} make run" in run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_settings_are_reported_at_once(tmp_path: Path) -> None:
    env = environment(tmp_path, DNSIMPLE_API_TOKEN="abc", DNSIMPLE_ACCOUNT_ID="x", PUBLIC_URL="http://certs.example")
    for command in (
        ["-m", "app.launch"],
        ["-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
        ["-m", "flask", "worker"],
    ):
        run = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert run.returncode != 0
        assert "DNSIMPLE_ACCOUNT_ID" in run.stderr
        assert "PUBLIC_URL" in run.stderr
        assert "Traceback" not in run.stderr
