"""The real thing: gunicorn, worker and simulator as separate processes on a real database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.harness import ACCOUNT, TOKEN, WEBHOOK_SECRET
from tests.simulator_process import Simulator

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until[T](look: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """Look until it is true. Raises AssertionError with `what` when it does not become so."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} seconds: {what}"
        pause.wait(0.02)


class Stack:
    """Start with `start()`, talk to `url`, end with `stop()`. The environment holds no setting of the caller's."""

    def __init__(self, database_url: str, folder: Path, simulator: Simulator, **settings: object) -> None:
        self.folder = folder
        self.simulator = simulator
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
            "DNSIMPLE_API_TOKEN": TOKEN,
            "DNSIMPLE_ACCOUNT_ID": str(ACCOUNT),
            "DNSIMPLE_BASE_URL": simulator.url,
            "PUBLIC_URL": self.url,
            "PORT": str(self.port),
            "DATABASE_URL": database_url,
            "VAR_DIR": str(folder / "var"),
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        self.token = ""

    def start(self) -> Stack:
        """Web and worker, ready, with a token for `session`."""
        self.token = self.flask("tokens", "create", "tests").strip()
        self.start_web()
        self.start_worker()
        wait_until(self.is_ready, "ready", 60)
        return self

    def start_web(self) -> None:
        self._run("web", "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app")

    def start_worker(self, name: str = "worker") -> None:
        self._run(name, "-m", "flask", "worker")

    def kill(self, name: str) -> None:
        """As if the machine had lost power, for this process and its children."""
        process = self.processes.pop(name)
        for victim in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            victim.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> dict[str, int]:
        """End what runs, gracefully; exit statuses by name."""
        for process in self.processes.values():
            process.terminate()
        return {name: process.wait(40) for name, process in self.processes.items()}

    def flask(self, *arguments: str) -> str:
        """Output of a command."""
        run = subprocess.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=ROOT,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return run.stdout

    def order(self, domain: str, **more: Any) -> dict[str, Any]:
        """POST /issue_certificate, expecting 202."""
        answer = requests.post(
            f"{self.url}/issue_certificate", json={"domain": domain} | more, headers=self._headers(), timeout=60
        )
        assert answer.status_code == 202, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def get(self, path: str) -> Any:
        """`data` of a GET, or None for 404."""
        answer = requests.get(self.url + path, headers=self._headers(), timeout=30)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def wait_delivered(self, certificate_id: int, seconds: float = 30.0) -> dict[str, Any]:
        """The certificate, once all its deliveries have ended well."""

        def look() -> dict[str, Any] | None:
            found = self.get(f"/certificates/{certificate_id}")
            done = found and found["deliveries"] and all(d["state"] == "delivered" for d in found["deliveries"])
            return found if done else None

        delivered = wait_until(look, f"certificate {certificate_id} delivered", seconds)
        assert delivered is not None
        return delivered

    def memory(self) -> dict[str, float]:
        """Proportional set size in MiB by process group: shared pages are counted once in all."""
        found = {}
        for name, process in self.processes.items():
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            found[name] = sum(member.memory_full_info().pss for member in family) / 2**20
        return found

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def is_ready(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} has ended:\n{self.log(name)}"
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}
