"""gunicorn, worker and simulator as separate processes on a real database."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.support.harness import ACCOUNT, TOKEN, WEBHOOK_SECRET
from tests.support.simulator_process import Simulator

ROOT = Path(__file__).resolve().parents[2]

# Below those that Linux gives to connections (32768 and up); each of pytest's processes has its own.
_FIRST = 20_000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = cycle(random.sample(range(_FIRST, _FIRST + 1000), 1000))


def free_port() -> int:
    """A free port, which is assigned neither to a connection nor to another test process before its server
    starts.
    """
    for port in islice(_ports, 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def wait_until[T](look: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """Call `look` until its result is true, and return it. Raises AssertionError with `what` after `seconds`."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} seconds: {what}"
        pause.wait(0.02)


class Stack:
    """Start with `start()`, talk to `url`, end with `stop()`. The environment holds none of the caller's settings."""

    def __init__(self, database_url: str, folder: Path, simulator: Simulator, **settings: object) -> None:
        self.folder = folder
        self.simulator = simulator
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {"web": self.port}
        self.environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
            "DNSIMPLE_API_TOKEN": TOKEN,
            "DNSIMPLE_ACCOUNT_ID": str(ACCOUNT),
            "DNSIMPLE_BASE_URL": simulator.url,
            "PUBLIC_URL": self.url,
            "PORT": str(self.port),
            "DATABASE_URL": database_url,
            "DATA_DIR": str(folder / "var"),
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "TOKEN_REQUESTS_PER_MINUTE": "1000000",  # tests and benchmarks poll
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        self.token = ""
        self.gunicorn_configuration = "gunicorn.conf.py"

    def start(self) -> Stack:
        """Web and worker, ready, with a token for `session`."""
        self.token = self.flask("tokens", "create", "tests").strip()
        self.start_web()
        self.start_worker()
        wait_until(self.is_ready, "ready", 60)
        return self

    def start_web(self, name: str = "web", *, under: Sequence[str] = (), application: str = "wsgi:app") -> None:
        """Each web process has a port of its own, the same one when it is started again; see `url_of`."""
        port = self._ports.setdefault(name, free_port())
        self._run(name, "-m", "gunicorn", "-c", self.gunicorn_configuration, application, under=under, PORT=str(port))

    def start_worker(self, name: str = "worker", *, under: Sequence[str] = ()) -> None:
        """`under` is a program that starts it, with its arguments."""
        self._run(name, "-m", "flask", "worker", under=under)

    def url_of(self, web: str) -> str:
        """Where this web process listens."""
        return f"http://127.0.0.1:{self._ports[web]}"

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP freezes the process, SIGCONT resumes it."""
        self.processes[name].send_signal(number)

    def stop_one(self, name: str) -> int:
        """Stop the process gracefully; returns its exit status."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(40)

    def kill(self, name: str) -> None:
        """Kill the process and its children with SIGKILL."""
        process = self.processes.pop(name)
        for victim in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            victim.send_signal(signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        """Kill all processes: the fast end of tests that do not test stopping."""
        for name, process in list(self.processes.items()):
            if process.poll() is None:
                self.kill(name)

    def stop(self) -> dict[str, int]:
        """Stop all processes gracefully; returns exit statuses by name."""
        for process in self.processes.values():
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a frozen process handles no other signal
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
            f"{self.url}/issue_certificate", json={"domain": domain} | more, headers=self.headers(), timeout=60
        )
        assert answer.status_code == 202, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def get(self, path: str) -> Any:
        """`data` of a GET, or None for 404."""
        answer = requests.get(self.url + path, headers=self.headers(), timeout=30)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def wait_delivered(self, certificate_id: int, seconds: float = 30.0) -> dict[str, Any]:
        """Wait for the certificate's deliveries to succeed, and return it."""

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
        """The output of a process."""
        return (self.folder / f"{name}.log").read_text()

    def _run(self, name: str, *arguments: str, under: Sequence[str] = (), **environment: str) -> None:
        command = [*under, sys.executable, *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment | environment, stdout=log, stderr=log
            )

    def is_ready(self, web: str = "web") -> bool:
        """Whether this web process reports that it is ready."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} has ended:\n{self.log(name)}"
        try:
            return requests.get(f"{self.url_of(web)}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}
