"""`make run`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from dotenv import dotenv_values
from sqlalchemy.exc import DBAPIError

from app.db.errors import explain_failure
from app.db.migrations import upgrade
from app.errors import CertcourierError
from app.logs import configure_logs
from app.operations.health import claim_installation
from app.services import Services, build_services
from config import ConfigurationError, Settings, load_settings
from launcher import demo
from launcher.folder import FolderLock, FolderTakenError, LaunchError, lock_folder
from launcher.messages import banner, first_steps, local_url, print_message
from launcher.processes import READY_SECONDS, Processes, check_free, other_ports


def main() -> int:
    """Start everything, run the demo, and wait for Ctrl-C. Returns the exit status."""
    stopping = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(signal_number, lambda *_: stopping.set())
    try:
        environment = _environment()
        simulated = not (environment.get("DNSIMPLE_API_TOKEN") or environment.get("DNSIMPLE_API_TOKEN_FILE"))
        if simulated:
            environment |= demo.simulated_settings(environment)
        os.environ.update(environment)
        settings = load_settings()
        lock = _take_folder(settings, simulated=simulated)
        try:
            check_free(_listeners(settings, simulated=simulated))
            _run(settings, environment, lock, stopping, simulated=simulated)
        finally:
            lock.release()
    except (ConfigurationError, CertcourierError, LaunchError, requests.RequestException) as error:
        print_message(f"\nCertcourier cannot start:\n{error}", error=True)
        return 1
    return 0


def _run(
    settings: Settings, environment: dict[str, str], lock: FolderLock, stopping: threading.Event, *, simulated: bool
) -> None:
    print_message(banner(settings, simulated=simulated))
    services = _prepare(settings)
    if simulated:
        demo.write_settings(settings, environment)
    else:
        demo.delete_settings(settings)
    processes = Processes(lock, _log_folder(settings) if simulated else None, environment)
    try:
        _start(processes, settings, simulated=simulated)
        _wait_ready(processes, settings, stopping)
        if simulated and not stopping.is_set():
            demo.demonstrate(processes, services, stopping)
        elif not stopping.is_set():
            print_message(first_steps(settings))
        while not stopping.wait(1.0):
            processes.check()
    finally:
        print_message("\nStopping...")
        processes.stop()
        print_message("Stopped. Run `make run` to continue with the same data.")


def _environment() -> dict[str, str]:
    """The children's environment: `.env` overridden by the real environment, as the settings read it."""
    from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return from_file | dict(os.environ)


def _take_folder(settings: Settings, *, simulated: bool) -> FolderLock:
    try:
        return lock_folder(settings.data_dir)
    except FolderTakenError as error:
        if not simulated:  # a second instance on the same account would take over the webhook
            raise
        own = f"DATA_DIR={settings.data_dir / 'second'} {other_ports(_listeners(settings, simulated=True))} make run"
        raise LaunchError(f"{error}\nA second demo needs its own data, ports and database:\n  {own}") from None


def _listeners(settings: Settings, *, simulated: bool) -> Mapping[str, tuple[str, int]]:
    ours = {"PORT": (settings.host, settings.port)}
    return ours | ({"SIMULATOR_PORT": (demo.SIMULATOR_HOST, demo.simulator_port(settings))} if simulated else {})


def _prepare(settings: Settings) -> Services:
    configure_logs("text", "warning")
    services = build_services(settings)
    try:
        upgrade(services.database)
    except DBAPIError as error:
        raise LaunchError("; ".join(explain_failure(error))) from None
    claim_installation(services)
    return services


def _start(processes: Processes, settings: Settings, *, simulated: bool) -> None:
    if simulated:
        demo.start_simulator(processes, settings)
    processes.start("web", sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app")
    # The worker registers the webhook immediately, so the web server has to listen first.
    processes.wait_listening(settings.host, settings.port)
    processes.start("worker", sys.executable, "-m", "flask", "worker")


def _wait_ready(processes: Processes, settings: Settings, stopping: threading.Event) -> None:
    checks: Any = "no response yet"
    for _ in range(READY_SECONDS * 10):
        processes.check()
        with suppress(requests.RequestException, ValueError):
            answer = requests.get(f"{local_url(settings)}/readyz", timeout=5)
            checks = answer.json()
            if answer.status_code == 200:
                return
        if stopping.wait(0.1):
            return
    raise LaunchError(f"not ready after {READY_SECONDS} seconds: {checks}")


def _log_folder(settings: Settings) -> Path:
    folder = settings.data_dir / "log"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
