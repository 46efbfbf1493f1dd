"""The real thing: gunicorn, worker and simulator as separate processes on a real database."""

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
    """A port that nobody listens on at this moment, and that is neither given to a connection nor to another of
    pytest's processes before its server starts.
    """
    for port in islice(_ports, 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


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
            "TOKEN_REQUESTS_PER_MINUTE": "1000000",  # tests and benchmarks look again and again
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
        """Freeze it with SIGSTOP, wake it with SIGCONT."""
        self.processes[name].send_signal(number)

    def stop_one(self, name: str) -> int:
        """End it gracefully; its exit status."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(40)

    def kill(self, name: str) -> None:
        """As if the machine had lost power, for this process and its children."""
        process = self.processes.pop(name)
        for victim in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            victim.send_signal(signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        """The quick end of a test that has said all it had to say about ending."""
        for name, process in list(self.processes.items()):
            if process.poll() is None:
                self.kill(name)

    def stop(self) -> dict[str, int]:
        """End what runs, gracefully; exit statuses by name."""
        for process in self.processes.values():
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that is frozen hears nothing else
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

    def _run(self, name: str, *arguments: str, under: Sequence[str] = (), **environment: str) -> None:
        command = [*under, sys.executable, *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment | environment, stdout=log, stderr=log
            )

    def is_ready(self, web: str = "web") -> bool:
        """Whether this web process finds that orders and events will be worked on."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} has ended:\n{self.log(name)}"
        try:
            return requests.get(f"{self.url_of(web)}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}
