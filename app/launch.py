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

from app.certificates.tokens import authenticate, create_token
from app.errors import CertcourierError
from app.logs import configure_logs
from app.services import Services, build_services
from app.storage.migrating import upgrade
from config import ConfigurationError, Settings, load_settings

DEMO_DOMAIN = "customer.example"
_SIMULATOR_PORT = 4570
_SIMULATED_TOKEN = "simulated-token"  # noqa: S105, opens nothing but the simulator
_SIMULATED_ACCOUNT = 1010
_READY_SECONDS = 60
_STOP_SECONDS = 30
_STORY_SECONDS = 120


class LaunchError(Exception):
    """Why the service could not be started, for the person at the terminal."""


@dataclass
class Processes:
    """The children, in the order in which they were started."""

    logs: Path | None
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a child in a process group of its own, so that Ctrl-C reaches us first and it is ended in order."""
        output = (self.logs / f"{name}.log").open("ab") if self.logs else None
        self.running[name] = subprocess.Popen(  # noqa: S603, our own programs
            command, env=self.environment, stdout=output, stderr=output, start_new_session=True
        )
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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    environment = _environment()
    simulated = not (environment.get("DNSIMPLE_API_TOKEN") or environment.get("DNSIMPLE_API_TOKEN_FILE"))
    demo = _simulated(environment) if simulated else {}
    environment |= demo
    processes: Processes | None = None
    try:
        os.environ.update(environment)
        settings = load_settings()
        _say(_banner(settings, simulated=simulated))
        services = _prepare(settings)
        _write_demo_settings(settings, demo)
        processes = Processes(_log_folder(settings) if simulated else None, environment)
        _start(processes, services, simulated=simulated)
        _wait_ready(processes, settings, stopping)
        if simulated and not stopping.is_set():
            _demonstrate(processes, services, stopping)
        elif not stopping.is_set():
            _say(_first_steps(settings))
        while not stopping.wait(1.0):
            processes.check()
    except (ConfigurationError, CertcourierError, LaunchError) as error:
        _say(f"\nCertcourier cannot run:\n{error}", file=sys.stderr)
        return 1
    finally:
        if processes is not None:
            _say("\nStopping...")
            processes.stop()
            _say("Stopped. `make run` goes on from here.")
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


def _write_demo_settings(settings: Settings, demo: Mapping[str, str]) -> None:
    """What `flask -e` needs to work with the demo; without a demo, what an earlier one has left misleads."""
    path = _demo_settings(settings)
    if demo:
        path.write_text("".join(f"{name}={value}\n" for name, value in demo.items()))
    else:
        path.unlink(missing_ok=True)


def _demo_settings(settings: Settings) -> Path:
    return settings.var_dir / "demo.env"


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
                f"port {port} is in use by another program. Stop it, or choose another port: "
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
            answer = requests.get(f"{_local_url(settings)}/readyz", timeout=5)
            checks = answer.json()
            if answer.status_code == 200:
                return
        if stopping.wait(0.1):
            return
    raise LaunchError(f"not ready after {_READY_SECONDS} seconds: {checks}")


def _demonstrate(processes: Processes, services: Services, stopping: threading.Event) -> None:
    """Order one certificate for the demo domain, unless an earlier run has, and tell its story as it happens."""
    url = _local_url(services.settings)
    token = _demo_token(services)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    earlier = session.get(f"{url}/orders", params={"domain": DEMO_DOMAIN, "state": "installed"}, timeout=10)
    earlier.raise_for_status()
    if earlier.json()["data"]:
        _say(f"The certificate for {DEMO_DOMAIN} is there from an earlier run. Its story:\n")
        order_id = earlier.json()["data"][0]["order_id"]
    else:
        _say(f"Ordering a certificate for {DEMO_DOMAIN}. Its story:\n")
        ordered = session.post(f"{url}/issue_certificate", json={"domain": DEMO_DOMAIN}, timeout=60)
        if ordered.status_code != 202:
            raise LaunchError(f"the order was refused: {ordered.text}")
        order_id = ordered.json()["data"]["order_id"]
    order = _tell_story(session, f"{url}/orders/{order_id}", processes, stopping)
    if order is not None:
        _say(_what_next(services.settings, order, token))


def _tell_story(
    session: requests.Session, url: str, processes: Processes, stopping: threading.Event
) -> dict[str, Any] | None:
    """Print each new line until the certificate is delivered. None when it is time to stop."""
    told: set[tuple[str, str]] = set()
    for _ in range(_STORY_SECONDS * 5):
        processes.check()
        answer = session.get(url, timeout=10)
        answer.raise_for_status()
        order: dict[str, Any] = answer.json()["data"]
        for line in order["story"]:
            if (line["at"], line["step"]) not in told:
                told.add((line["at"], line["step"]))
                _say(f"  {line['at'][11:23]}  {line['step']:<15} {line['detail']}")
        if order["order_state"] == "failed":
            raise LaunchError(f"the demo's order failed: {order['failure']['detail']}")
        states = [delivery["state"] for delivery in order["deliveries"]]
        if states and set(states) <= {"delivered", "superseded"}:
            return order
        if stopping.wait(0.2):
            return None
    raise LaunchError(f"the demo's certificate was not delivered within {_STORY_SECONDS} seconds")


def _demo_token(services: Services) -> str:
    """A token for the demo's curl, kept in a file of its own so that it still works after the next `make run`."""
    path = services.settings.var_dir / "demo.token"
    if path.exists():
        token = path.read_text().strip()
        if authenticate(services, token):
            return token
        path.unlink()
    _, token = create_token(services, "demo", ("issue", "read"))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    return token


def _banner(settings: Settings, *, simulated: bool) -> str:
    where = f"Certcourier on {_local_url(settings)}, data in {settings.var_dir}/"
    if not simulated:
        return f"{where}\nDNSimple: {settings.dnsimple_base_url}, account {settings.dnsimple_account_id}\n"
    width = 78
    lines = (
        "DNSimple is SIMULATED: no DNSIMPLE_API_TOKEN is configured.",
        "Certificates come from a test authority that nobody trusts; nothing is bought.",
    )
    rule = "*" * (width + 4)
    return "\n".join([rule, *(f"* {line:<{width}} *" for line in lines), rule, where, ""])


def _what_next(settings: Settings, order: dict[str, Any], token: str) -> str:
    file = order["deliveries"][0]["detail"]
    return f"""
The files are in {file}/

Look at the certificate:
  openssl x509 -in {file}/fullchain.pem -noout -subject -ext subjectAltName -dates

Order the next one, and wait for it:
  curl -i {_local_url(settings)}/issue_certificate \\
    -H 'Authorization: Bearer {token}' -H 'Prefer: wait=30' \\
    -H 'Content-Type: application/json' -d '{{"domain": "shop.example", "san": ["blog"]}}'

See all of them, and whether all is well:
  .venv/bin/flask -e {_demo_settings(settings)} certificates list
  .venv/bin/flask -e {_demo_settings(settings)} doctor

The interface's page is {_local_url(settings)}/docs (any user, the token as password); logs are in \
{settings.var_dir}/log/.
Ctrl-C stops everything."""


def _first_steps(settings: Settings) -> str:
    return f"""Ready. Make a token for a client:   .venv/bin/flask tokens create NAME
Then order a certificate:
  curl -i {_local_url(settings)}/issue_certificate -H 'Authorization: Bearer TOKEN' -d domain=DOMAIN
Ctrl-C stops everything."""


def _local_url(settings: Settings) -> str:
    host = _reachable(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _reachable(host: str) -> str:
    """An address to connect to for one to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104, compared, not bound


def _log_folder(settings: Settings) -> Path:
    folder = settings.var_dir / "log"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _say(text: str, file: Any = None) -> None:
    print(text, file=file or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
