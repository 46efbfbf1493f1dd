"""`make run`: the demo, its messages, and how it stops."""

from __future__ import annotations

import fcntl
import functools
import os
import pty
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
from dotenv import dotenv_values

from config import Settings, load_settings
from launcher.demo import write_settings
from tests.support.stack import ROOT, free_port, wait_until


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's settings, and ports that are free."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "DATA_DIR": str(folder / "var"),
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
            [sys.executable, "-m", "launcher"], cwd=ROOT, env=env, stdout=terminal, stderr=terminal
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


def contains(output: Path, text: str) -> bool:
    return text in output.read_text()


def test_the_demo_prints_its_progress_and_continues_on_the_next_run(tmp_path: Path) -> None:
    env = environment(tmp_path)
    for run in (1, 2):
        with launched(tmp_path, env) as (process, output):
            wait_until(functools.partial(contains, output, "Ctrl-C stops everything"), "the end of the progress", 90)
            text = output.read_text()
            assert "DNSimple is SIMULATED" in text
            steps = re.findall(r"^  [\d:.]{12}  (\w+(?: received| requested)?)", text, re.MULTILINE)
            assert steps == [
                "ordered",
                "purchased",
                "issuance requested",
                "event received",
                "fetched",
                "verified",
                "delivered",
            ]
            assert ("from an earlier run" in text) == (run == 2)

            assert f"Dashboard: http://127.0.0.1:{env['PORT']}/ (token: cat {env['DATA_DIR']}/demo.token)" in text
            page = requests.get(f"http://127.0.0.1:{env['PORT']}/dashboard/sign-in", timeout=10).text
            assert f"cat {env['DATA_DIR']}/demo.token" in page
            look = re.search(r"openssl x509 .*", text)
            assert look is not None
            shown = subprocess.run(shlex.split(look[0]), check=True, capture_output=True, text=True, cwd=ROOT).stdout
            assert "DNS:www.customer.example" in shown

            curl = re.search(r"(?s)curl -i .*?\]}'", text)
            assert curl is not None
            url, token = re.search(r"http://\S+", curl[0]), re.search(r"Bearer \$\(cat (\S+)\)\"", curl[0])
            body = re.search(r"-d '(.*)'", curl[0])
            assert url is not None and token is not None and body is not None  # noqa: PT018, one question
            secret = Path(token[1]).read_text().strip()
            assert secret not in text
            headers = {"Authorization": f"Bearer {secret}", "Prefer": "wait=30", "Content-Type": "application/json"}
            answer = requests.post(url[0], data=body[1], headers=headers, timeout=60)
            assert answer.status_code == 202
            assert answer.json()["data"]["state"] == "issued"
        assert process.returncode == 0
        assert "Stopped." in output.read_text()
        for port in (env["PORT"], env["SIMULATOR_PORT"]):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "something was left running"


def run_refused(env: dict[str, str]) -> str:
    """Its standard error."""
    run = subprocess.run(
        [sys.executable, "-m", "launcher"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "Certcourier on" not in run.stdout
    return run.stderr


@pytest.mark.parametrize("name", ["PORT", "SIMULATOR_PORT"])
def test_a_busy_port_gets_a_clear_message(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        message = run_refused(environment(tmp_path, **{name: str(port)}))
    assert f"port {port} is in use" in message
    assert re.search(r"^  PORT=\d+ SIMULATOR_PORT=\d+ make run$", message, re.MULTILINE)


def is_free(env: dict[str, str]) -> bool:
    """Whether no process of it runs or holds its data directory."""
    with Path(env["DATA_DIR"], "run.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_second_instance_on_the_same_data_is_refused_and_children_left_behind_are_named(tmp_path: Path) -> None:
    env = environment(tmp_path)
    with launched(tmp_path, env) as (process, output):
        wait_until(functools.partial(contains, output, "issuance requested"), "the beginning of the progress", 60)
        settings = Path(env["DATA_DIR"], "demo.env").read_text()
        message = run_refused(env | {"PORT": str(free_port()), "SIMULATOR_PORT": str(free_port())})
        assert f"already running here (pid {process.pid}" in message
        assert re.search(r"^  DATA_DIR=\S+/second PORT=\d+ SIMULATOR_PORT=\d+ make run$", message, re.MULTILINE)
        assert Path(env["DATA_DIR"], "demo.env").read_text() == settings
        process.kill()
        process.wait()
        message = run_refused(env)
    pids = re.search(r"simulator \(pid \d+\), web \(pid \d+\), worker \(pid \d+\).*\n  kill ([\d ]+)\n", message)
    assert pids is not None, message
    for pid in pids[1].split():
        os.kill(int(pid), signal.SIGTERM)
    wait_until(functools.partial(is_free, env), "the end of the children", 60)


def test_closing_the_terminal_stops_everything(tmp_path: Path) -> None:
    env = environment(tmp_path)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "launcher"],
        cwd=ROOT,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    printed = b""
    while b"Progress:" not in printed:
        printed += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(60) == 0
    assert is_free(env)


def test_a_demo_with_destinations_of_its_own(tmp_path: Path) -> None:
    destinations, folder = tmp_path / "destinations.toml", tmp_path / "edge's certificates"
    destinations.write_text(
        f"""
        [[destination]]
        name = "a-command"
        kind = "command"
        directory = "{tmp_path}"
        command = ["sh", "-c", "test -e repaired || {{ echo 'repaired is not there'; exit 1; }}"]

        [[destination]]
        name = "edge"
        kind = "files"
        path = "{folder}"
        """
    )
    database = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    env = environment(tmp_path, DATABASE_URL=database, DESTINATIONS_FILE=os.path.relpath(destinations, ROOT))
    with launched(tmp_path, env) as (process, output):
        wait_until(functools.partial(contains, output, "Ctrl-C stops everything"), "what is next", 90)
        text = output.read_text()
        assert f"data in {database} and {env['DATA_DIR']}/" in text
        assert re.search(r"retried with increasing delays:\n  a-command: .*repaired is not there", text)
        assert f"The files are in {folder}/www.customer.example/\n" in text

        file = Path(env["DATA_DIR"], "demo.env")
        assert file.stat().st_mode & 0o077 == 0
        ours = {name.upper() for name in Settings.model_fields}
        listed = subprocess.run(
            [sys.executable, "-m", "flask", "-e", str(file), "destinations", "list"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name not in ours},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert re.search(r"^a-command .*\n^edge ", listed, re.MULTILINE), listed

        (tmp_path / "repaired").touch()
        wait_until(functools.partial(contains, output, "delivered          a-command"), "the end of the progress", 60)
        assert process.poll() is None
    assert process.returncode == 0


def test_the_demos_settings_are_read_as_they_were(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "sqlite:///some/where.db", "NOTIFY_URLS": "json://a/?b='c' d\\e #f", "WEB_THREADS": "4"}
    settings = load_settings(
        _env_file=None,
        dnsimple_api_token="t",
        dnsimple_account_id=1,
        public_url="http://127.0.0.1",
        data_dir=tmp_path,
    )
    write_settings(settings, given)
    assert dotenv_values(tmp_path / "demo.env") == given | {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{Path.cwd()}/some/where.db",
    }


def test_wrong_settings_are_reported_at_once(tmp_path: Path) -> None:
    env = environment(tmp_path, DNSIMPLE_API_TOKEN="abc", DNSIMPLE_ACCOUNT_ID="x", PUBLIC_URL="http://certs.example")
    for command in (
        ["-m", "launcher"],
        ["-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
        ["-m", "flask", "worker"],
    ):
        run = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert run.returncode != 0
        assert "DNSIMPLE_ACCOUNT_ID" in run.stderr
        assert "PUBLIC_URL" in run.stderr
        assert "Traceback" not in run.stderr
