"""The demo with a simulated DNSimple: its settings, and the progress of a first certificate."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from app.atomic_files import write_file
from app.auth.tokens import authenticate, create_token
from app.db.database import Database
from app.db.models import DeliveryState, OrderState
from app.destinations.base import Destination
from app.destinations.files.destination import FilesDestination
from app.services import Services
from config import Settings
from launcher.folder import LaunchError
from launcher.messages import dashboard_hint, local_url, print_message
from launcher.processes import Processes

DEMO_DOMAIN = "customer.example"
SIMULATOR_HOST = "127.0.0.1"
_SIMULATOR_PORT = "4570"
_SIMULATED_TOKEN = "simulated-token"  # noqa: S105, valid only for the simulator
_SIMULATED_ACCOUNT = 1010
_PROGRESS_SECONDS = 30
_DONE = {DeliveryState.DELIVERED, DeliveryState.SUPERSEDED}
_PATHS = {name for name, field in Settings.model_fields.items() if field.annotation in {Path, Path | None}}
_PLAIN = re.compile(r"[\w./:,@%+=-]+")
_SQLITE = "sqlite:///"


def simulated_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of the demo, by variable. Raises `LaunchError` for an invalid SIMULATOR_PORT."""
    port = environment.get("SIMULATOR_PORT") or _SIMULATOR_PORT
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise LaunchError("SIMULATOR_PORT: must be a port number from 1 to 65535")
    return {
        "DNSIMPLE_API_TOKEN": _SIMULATED_TOKEN,
        "DNSIMPLE_ACCOUNT_ID": str(_SIMULATED_ACCOUNT),
        "DNSIMPLE_BASE_URL": f"http://{SIMULATOR_HOST}:{port}",
        "PUBLIC_URL": f"http://127.0.0.1:{environment.get('PORT') or '4567'}",
        "LOG_FORMAT": environment.get("LOG_FORMAT") or "text",
    }


def simulator_port(settings: Settings) -> int:
    """The port that the simulator listens on."""
    return int(settings.dnsimple_base_url.rpartition(":")[2])


def start_simulator(processes: Processes, settings: Settings) -> None:
    """Start the simulator, and wait until it listens."""
    processes.start(
        "simulator",
        *(sys.executable, "-m", "simulator", "--any-domain", "--allow-http-webhooks"),
        *("--port", str(simulator_port(settings)), "--issue-delay", "3"),
        *("--account", str(_SIMULATED_ACCOUNT), "--token", _SIMULATED_TOKEN),
        *("--state", str(settings.data_dir / "simulator.db")),
    )
    processes.wait_listening(SIMULATOR_HOST, simulator_port(settings))


def write_settings(settings: Settings, environment: Mapping[str, str]) -> None:
    """Write the settings for `flask -e` in another terminal. The file may contain secrets."""
    given = {name: environment.get(name.upper(), "") for name in Settings.model_fields}
    given["data_dir"] = str(settings.data_dir)
    path = _settings_file(settings)
    path.unlink(missing_ok=True)
    lines = [f"{name.upper()}={_quoted(_absolute(name, value))}\n" for name, value in given.items() if value]
    write_file(path, "".join(lines).encode())


def delete_settings(settings: Settings) -> None:
    """Delete the settings of an earlier demo, which do not apply to a real account."""
    _settings_file(settings).unlink(missing_ok=True)


def demonstrate(processes: Processes, services: Services, stopping: threading.Event) -> None:
    """Order a certificate for the demo domain, unless an earlier run did, and print its progress."""
    url = local_url(services.settings)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {_demo_token(services.settings, services.database)}"
    earlier = session.get(f"{url}/orders", params={"domain": DEMO_DOMAIN, "state": OrderState.FETCHED}, timeout=10)
    earlier.raise_for_status()
    if earlier.json()["data"]:
        print_message(f"The certificate for {DEMO_DOMAIN} exists from an earlier run. Progress:\n")
        order_id = earlier.json()["data"][0]["order_id"]
    else:
        print_message(f"Ordering a certificate for {DEMO_DOMAIN}. Progress:\n")
        ordered = session.post(f"{url}/issue_certificate", json={"domain": DEMO_DOMAIN}, timeout=60)
        if ordered.status_code != 202:
            raise LaunchError(f"the order was refused: {ordered.text}")
        order_id = ordered.json()["data"]["order_id"]
    _print_progress(session, f"{url}/orders/{order_id}", processes, services, stopping)


def _print_progress(
    session: requests.Session, url: str, processes: Processes, services: Services, stopping: threading.Event
) -> None:
    """Print each new step until the certificate is delivered everywhere; failing deliveries are reported once."""
    printed: set[tuple[str, str, str]] = set()
    advised, deadline = False, time.monotonic() + _PROGRESS_SECONDS
    while not stopping.wait(2.0 if advised else 0.2):
        processes.check()
        order = _fetch_order(session, url)
        if order is None:
            return
        for line in order.get("timeline", ()):
            if (line["at"], line["step"], line["detail"]) not in printed:
                printed.add((line["at"], line["step"], line["detail"]))
                print_message(f"  {line['at'][11:23]}  {line['step']:<18} {line['detail']}")
        obstacle = _obstacle(order, patient=time.monotonic() < deadline)
        if obstacle == "" or (obstacle and not advised):
            print_message(obstacle)
            print_message("" if advised else _what_next(services, order))
            advised = True
        if obstacle == "" or order.get("order_state") == OrderState.FAILED:
            return


def _fetch_order(session: requests.Session, url: str) -> dict[str, Any] | None:
    """The order, empty while there is no response; None if the demo's token was revoked."""
    try:
        answer = session.get(url, timeout=10)
    except requests.RequestException:
        return {}
    if answer.status_code == 401:
        return None
    return dict(answer.json()["data"]) if answer.ok else {}


def _obstacle(order: Mapping[str, Any], *, patient: bool) -> str | None:
    """What blocks the certificate: an empty text if it is delivered everywhere, None if there is nothing to report."""
    if order.get("order_state") == OrderState.FAILED:
        return f"\nThe order failed: {order['failure']['detail']}\nThe next `make run` orders again."
    deliveries = order.get("deliveries", [])
    unfinished = [delivery for delivery in deliveries if delivery["state"] not in _DONE]
    if deliveries and not unfinished:
        return ""
    if patient and not (unfinished and all(delivery["detail"] for delivery in unfinished)):
        return None
    lines = [f"  {delivery['destination']}: {delivery['detail'] or 'not attempted yet'}" for delivery in unfinished]
    return "\n".join(["\nSome deliveries are failing and will be retried with increasing delays:", *lines])


def _what_next(services: Services, order: Mapping[str, Any]) -> str:
    settings, url = services.settings, local_url(services.settings)
    flask = f".venv/bin/certcourier -e {_settings_file(settings)}"
    return f"""{_describe_files(services.destinations, order)}
Order another certificate, and wait for it:
  curl -i {url}/issue_certificate \\
    -H "Authorization: Bearer $(cat {_token_file(settings)})" -H 'Prefer: wait=30' \\
    -H 'Content-Type: application/json' -d '{{"domain": "shop.example", "san": ["blog"]}}'

List all certificates, and check the installation:
  {flask} certificates list
  {flask} doctor

{dashboard_hint(settings)} (token: cat {_token_file(settings)})
API reference: {url}/docs (user name: anything; password: the token). Logs: {settings.data_dir}/log/
Ctrl-C stops everything."""


def _describe_files(destinations: Mapping[str, Destination], order: Mapping[str, Any]) -> str:
    """Where the first files destination has stored them, if any."""
    locations = {
        delivery["destination"]: delivery["detail"]
        for delivery in order["deliveries"]
        if delivery["state"] == DeliveryState.DELIVERED
    }
    files_destinations = [
        name
        for name, destination in destinations.items()
        if isinstance(destination, FilesDestination) and name in locations
    ]
    if not files_destinations:
        return ""
    folder = Path(locations[files_destinations[0]])
    inspection = f"""
Inspect the certificate:
  openssl x509 -in {folder}/fullchain.pem -noout -subject -ext subjectAltName -dates
"""
    return f"The files are in {folder}/\n{inspection if (folder / 'fullchain.pem').exists() else ''}"


def _demo_token(settings: Settings, database: Database) -> str:
    """A token for the demo, kept in a file so that it remains valid for the next `make run`."""
    path = _token_file(settings)
    if path.exists():
        token = path.read_text().strip()
        if authenticate(database, token):
            return token
        path.unlink()
    _, token = create_token(database, "demo", ("issue", "read"))
    write_file(path, f"{token}\n".encode())
    return token


def _token_file(settings: Settings) -> Path:
    return settings.data_dir / "demo.token"


def _settings_file(settings: Settings) -> Path:
    return settings.data_dir / "demo.env"


def _absolute(name: str, value: str) -> str:
    if name in _PATHS:
        return str(Path(value).absolute())
    if name == "database_url" and value.startswith(_SQLITE):
        return f"{_SQLITE}{Path(value.removeprefix(_SQLITE)).absolute()}"
    return value


def _quoted(value: str) -> str:
    """As it is read again by python-dotenv."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
