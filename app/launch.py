"""`make run`: the whole service on one machine, with a simulated DNSimple where no token is configured."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from dotenv import dotenv_values

from app.demo import demo_settings, demonstrate, write_settings
from app.errors import CertcourierError
from app.logs import configure_logs
from app.running import LaunchError, RunningLock, lock, say
from app.services import Services, build_services
from app.storage.migrating import upgrade
from config import ConfigurationError, Settings, load_settings

_SIMULATOR_PORT = 4570
_SIMULATED_TOKEN = "simulated-token"  # noqa: S105, opens nothing but the simulator
_SIMULATED_ACCOUNT = 1010
_READY_SECONDS = 60
_STOP_SECONDS = 30


@dataclass
class Processes:
    """The children, in the order in which they were started."""

    logs: Path | None
    environment: dict[str, str]
    lock: RunningLock
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a child in a process group of its own, so that Ctrl-C reaches us first and it is ended in order."""
        output = (self.logs / f"{name}.log").open("ab") if self.logs else None
        self.running[name] = subprocess.Popen(  # noqa: S603, our own programs
            command,
            env=self.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[self.lock.descriptor],  # held for as long as any of them runs
        )
        self.lock.note(name, self.running[name].pid)
        if output:
            output.close()

    def check(self) -> None:
        """Raise `LaunchError` if one has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise LaunchError(f"{name} has ended with status {process.returncode}. {self._last_words(name)}")

    def stop(self) -> None:
        """End them in the reverse order, gracefully, and with force only after half a minute."""
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _last_words(self, name: str) -> str:
        if self.logs is None:
            return "Its messages are above."
        file = self.logs / f"{name}.log"
        return f"The end of {file}:\n" + "\n".join(file.read_text(errors="replace").splitlines()[-12:])


def main() -> int:
    """Start everything, tell the demo's story, and wait for Ctrl-C. Returns the exit status."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last one: the terminal was closed
        signal.signal(number, lambda *_: stopping.set())
    environment = _environment()
    simulated = not (environment.get("DNSIMPLE_API_TOKEN") or environment.get("DNSIMPLE_API_TOKEN_FILE"))
    demo = _simulated(environment) if simulated else {}
    environment |= demo
    processes: Processes | None = None
    try:
        os.environ.update(environment)
        settings = load_settings()
        running = lock(settings.var_dir)
        services = _prepare(settings)
        say(_banner(settings, simulated=simulated))
        # `flask -e` works with the demo by this file; without a demo, what an earlier one has left misleads.
        write_settings(settings, environment) if demo else demo_settings(settings).unlink(missing_ok=True)
        processes = Processes(_log_folder(settings) if simulated else None, environment, running)
        _start(processes, services, simulated=simulated)
        _wait_ready(processes, settings, stopping)
        if simulated and not stopping.is_set():
            demonstrate(services, local_url(settings), stopping, check=processes.check)
        elif not stopping.is_set():
            say(_first_steps(settings))
        while not stopping.wait(1.0):
            processes.check()
    except (ConfigurationError, CertcourierError, LaunchError) as error:
        say(f"\nCertcourier cannot run:\n{error}", file=sys.stderr)
        return 1
    finally:
        if processes is not None:
            say("\nStopping...")
            processes.stop()
            say("Stopped. `make run` goes on from here.")
    return 0


def _environment() -> dict[str, str]:
    """What the children get: .env below the real environment, as the settings themselves see it."""
    from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return from_file | dict(os.environ)


def _simulated(environment: Mapping[str, str]) -> dict[str, str]:
    port = environment.get("SIMULATOR_PORT", str(_SIMULATOR_PORT))
    return {
        "DNSIMPLE_API_TOKEN": _SIMULATED_TOKEN,
        "DNSIMPLE_ACCOUNT_ID": str(_SIMULATED_ACCOUNT),
        "DNSIMPLE_BASE_URL": f"http://127.0.0.1:{port}",
        "PUBLIC_URL": f"http://127.0.0.1:{environment.get('PORT', '4567')}",
        "LOG_FORMAT": environment.get("LOG_FORMAT", "text"),
    }


def _prepare(settings: Settings) -> Services:
    for name, port in _ports(settings).items():
        _check_free(name, settings.host, port)
    configure_logs("text", "warning")
    services = build_services(settings)
    upgrade(services.database)
    return services


def _ports(settings: Settings) -> dict[str, int]:
    ports = {"PORT": settings.port}
    if settings.dnsimple_base_url.startswith("http://127.0.0.1:"):
        ports["SIMULATOR_PORT"] = int(settings.dnsimple_base_url.rpartition(":")[2])
    return ports


def _check_free(name: str, host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LaunchError(f"HOST: cannot listen on {host}: {error.strerror}") from None
            raise LaunchError(
                f"{name}: port {port} is in use by another program. Stop it, or choose another port: "
                f"{name}={port + 100} make run"
            ) from None


def _start(processes: Processes, services: Services, *, simulated: bool) -> None:
    settings = services.settings
    if simulated:
        processes.start(
            "simulator",
            *(sys.executable, "-m", "simulator", "--any-domain", "--allow-http-webhooks"),
            *("--port", str(_ports(settings)["SIMULATOR_PORT"]), "--issue-delay", "3"),
            *("--account", str(_SIMULATED_ACCOUNT), "--token", _SIMULATED_TOKEN),
            *("--state", str(settings.var_dir / "simulator.db")),
        )
        _wait_listening(processes, "127.0.0.1", _ports(settings)["SIMULATOR_PORT"])
    processes.start("web", sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app")
    # The worker registers the webhook at once, so that we had better be listening.
    _wait_listening(processes, settings.host, settings.port)
    processes.start("worker", sys.executable, "-m", "flask", "worker")


def _wait_listening(processes: Processes, host: str, port: int) -> None:
    for _ in range(_READY_SECONDS * 10):
        processes.check()
        with suppress(OSError), socket.create_connection((_reachable(host), port), timeout=1):
            return
        threading.Event().wait(0.1)
    raise LaunchError(f"nobody listens on port {port} after {_READY_SECONDS} seconds")


def _wait_ready(processes: Processes, settings: Settings, stopping: threading.Event) -> None:
    checks: Any = "no answer yet"
    for _ in range(_READY_SECONDS * 10):
        processes.check()
        with suppress(requests.RequestException, ValueError):
            answer = requests.get(f"{local_url(settings)}/readyz", timeout=5)
            checks = answer.json()
            if answer.status_code == 200:
                return
        if stopping.wait(0.1):
            return
    raise LaunchError(f"not ready after {_READY_SECONDS} seconds: {checks}")


def _banner(settings: Settings, *, simulated: bool) -> str:
    database = "" if settings.is_sqlite else " and in PostgreSQL"
    where = f"Certcourier on {local_url(settings)}, data in {settings.var_dir}/{database}"
    if not simulated:
        return f"{where}\nDNSimple: {settings.dnsimple_base_url}, account {settings.dnsimple_account_id}\n"
    width = 78
    lines = (
        "DNSimple is SIMULATED: no DNSIMPLE_API_TOKEN is configured.",
        "Certificates come from a test authority that nobody trusts; nothing is bought.",
    )
    rule = "*" * (width + 4)
    return "\n".join([rule, *(f"* {line:<{width}} *" for line in lines), rule, where, ""])


def _first_steps(settings: Settings) -> str:
    return f"""Ready. The dashboard is {local_url(settings)}/ ; sign in with a token.
Make one for a client:   .venv/bin/flask tokens create NAME
Then order a certificate:
  curl -i {local_url(settings)}/issue_certificate -H 'Authorization: Bearer TOKEN' -d domain=DOMAIN
Ctrl-C stops everything."""


def local_url(settings: Settings) -> str:
    """Where this machine reaches the service."""
    host = _reachable(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _reachable(host: str) -> str:
    """An address to connect to for one to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104, compared, not bound


def _log_folder(settings: Settings) -> Path:
    folder = settings.var_dir / "log"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
