"""What is said and done where DNSimple is simulated: its settings, and the story of a first certificate."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from app.auth.tokens import authenticate, create_token
from app.destinations.files.destination import FilesDestination
from app.services import Services
from config import Settings
from launcher.folder import LaunchError
from launcher.messages import dashboard_hint, local_url, print_message
from launcher.processes import Processes

DEMO_DOMAIN = "customer.example"
SIMULATOR_HOST = "127.0.0.1"
_SIMULATOR_PORT = "4570"
_SIMULATED_TOKEN = "simulated-token"  # noqa: S105, opens nothing but the simulator
_SIMULATED_ACCOUNT = 1010
_STORY_SECONDS = 30
_DONE = {"delivered", "superseded"}
_PATHS = {name for name, field in Settings.model_fields.items() if field.annotation in {Path, Path | None}}
_PLAIN = re.compile(r"[\w./:,@%+=-]+")
_SQLITE = "sqlite:///"


def simulated_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that make it a demo, by variable. Raises `LaunchError` if the simulator's port is none."""
    port = environment.get("SIMULATOR_PORT") or _SIMULATOR_PORT
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise LaunchError("SIMULATOR_PORT: must be the number of a port")
    return {
        "DNSIMPLE_API_TOKEN": _SIMULATED_TOKEN,
        "DNSIMPLE_ACCOUNT_ID": str(_SIMULATED_ACCOUNT),
        "DNSIMPLE_BASE_URL": f"http://{SIMULATOR_HOST}:{port}",
        "PUBLIC_URL": f"http://127.0.0.1:{environment.get('PORT') or '4567'}",
        "LOG_FORMAT": environment.get("LOG_FORMAT") or "text",
    }


def simulator_port(settings: Settings) -> int:
    """Where the demo's simulator listens."""
    return int(settings.dnsimple_base_url.rpartition(":")[2])


def start_simulator(processes: Processes, settings: Settings) -> None:
    """Start it, and wait until it listens."""
    processes.start(
        "simulator",
        *(sys.executable, "-m", "simulator", "--any-domain", "--allow-http-webhooks"),
        *("--port", str(simulator_port(settings)), "--issue-delay", "3"),
        *("--account", str(_SIMULATED_ACCOUNT), "--token", _SIMULATED_TOKEN),
        *("--state", str(settings.data_dir / "simulator.db")),
    )
    processes.wait_listening(SIMULATOR_HOST, simulator_port(settings))


def write_settings(settings: Settings, environment: Mapping[str, str]) -> None:
    """Everything that `flask -e` needs to work with the demo from another terminal; some of it may be secret."""
    given = {name: environment.get(name.upper(), "") for name in Settings.model_fields}
    given["data_dir"] = str(settings.data_dir)
    path = _settings_file(settings)
    path.unlink(missing_ok=True)
    lines = [f"{name.upper()}={_quoted(_absolute(name, value))}\n" for name, value in given.items() if value]
    _write_privately(path, "".join(lines))


def forget_settings(settings: Settings) -> None:
    """Without a demo, the settings that an earlier one has left would mislead."""
    _settings_file(settings).unlink(missing_ok=True)


def demonstrate(processes: Processes, services: Services, stopping: threading.Event) -> None:
    """Order one certificate for the demo domain, unless an earlier run has, and tell its story as it happens."""
    url = local_url(services.settings)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {_demo_token(services)}"
    earlier = session.get(f"{url}/orders", params={"domain": DEMO_DOMAIN, "state": "fetched"}, timeout=10)
    earlier.raise_for_status()
    if earlier.json()["data"]:
        print_message(f"The certificate for {DEMO_DOMAIN} is there from an earlier run. Its story:\n")
        order_id = earlier.json()["data"][0]["order_id"]
    else:
        print_message(f"Ordering a certificate for {DEMO_DOMAIN}. Its story:\n")
        ordered = session.post(f"{url}/issue_certificate", json={"domain": DEMO_DOMAIN}, timeout=60)
        if ordered.status_code != 202:
            raise LaunchError(f"the order was refused: {ordered.text}")
        order_id = ordered.json()["data"]["order_id"]
    _print_progress(session, f"{url}/orders/{order_id}", processes, services, stopping)


def _print_progress(
    session: requests.Session, url: str, processes: Processes, services: Services, stopping: threading.Event
) -> None:
    """Print each new line until the certificate is delivered. What cannot go on yet is said, and watched further."""
    told: set[tuple[str, str, str]] = set()
    advised, patience_ends = False, time.monotonic() + _STORY_SECONDS
    while not stopping.wait(2.0 if advised else 0.2):
        processes.check()
        order = _look(session, url)
        if order is None:
            return
        for line in order.get("timeline", ()):
            if (line["at"], line["step"], line["detail"]) not in told:
                told.add((line["at"], line["step"], line["detail"]))
                print_message(f"  {line['at'][11:23]}  {line['step']:<18} {line['detail']}")
        obstacle = _obstacle(order, patient=time.monotonic() < patience_ends)
        if obstacle == "" or (obstacle and not advised):
            print_message(obstacle)
            print_message("" if advised else _what_next(services, order))
            advised = True
        if obstacle == "" or order.get("order_state") == "failed":
            return


def _look(session: requests.Session, url: str) -> dict[str, Any] | None:
    """The order, empty while there is no answer; None when the demo's token has been revoked."""
    try:
        answer = session.get(url, timeout=10)
    except requests.RequestException:
        return {}
    if answer.status_code == 401:
        return None
    return dict(answer.json()["data"]) if answer.ok else {}


def _obstacle(order: Mapping[str, Any], *, patient: bool) -> str | None:
    """What is in the certificate's way: nothing when it is everywhere, None as long as there is nothing to say."""
    if order.get("order_state") == "failed":
        return f"\nThe order has failed: {order['failure']['detail']}\nThe next `make run` orders anew."
    deliveries = order.get("deliveries", [])
    open_ones = [delivery for delivery in deliveries if delivery["state"] not in _DONE]
    if deliveries and not open_ones:
        return ""
    if patient and not (open_ones and all(delivery["detail"] for delivery in open_ones)):
        return None
    said = [f"  {one['destination']}: {one['detail'] or 'not tried yet'}" for one in open_ones]
    return "\n".join(["\nNot everywhere yet; still trying, with growing pauses:", *said])


def _what_next(services: Services, order: Mapping[str, Any]) -> str:
    settings, url = services.settings, local_url(services.settings)
    flask = f".venv/bin/flask -e {_settings_file(settings)}"
    return f"""{_look_at_files(services, order)}
Order the next one, and wait for it:
  curl -i {url}/issue_certificate \\
    -H "Authorization: Bearer $(cat {_token_file(settings)})" -H 'Prefer: wait=30' \\
    -H 'Content-Type: application/json' -d '{{"domain": "shop.example", "san": ["blog"]}}'

See all of them, and whether all is well:
  {flask} certificates list
  {flask} doctor

{dashboard_hint(settings)} (token: cat {_token_file(settings)})
The interface's page is {url}/docs (any user, the token as password); logs are in {settings.data_dir}/log/.
Ctrl-C stops everything."""


def _look_at_files(services: Services, order: Mapping[str, Any]) -> str:
    """Where the first destination of files has put them, if it has."""
    places = {one["destination"]: one["detail"] for one in order["deliveries"] if one["state"] == "delivered"}
    of_files = [
        name for name, one in services.destinations.items() if isinstance(one, FilesDestination) and name in places
    ]
    if not of_files:
        return ""
    folder = Path(places[of_files[0]])
    look = f"""
Look at the certificate:
  openssl x509 -in {folder}/fullchain.pem -noout -subject -ext subjectAltName -dates
"""
    return f"The files are in {folder}/\n{look if (folder / 'fullchain.pem').exists() else ''}"


def _demo_token(services: Services) -> str:
    """A token for the demo's curl, kept in a file of its own so that it still works after the next `make run`."""
    path = _token_file(services.settings)
    if path.exists():
        token = path.read_text().strip()
        if authenticate(services, token):
            return token
        path.unlink()
    _, token = create_token(services, "demo", ("issue", "read"))
    _write_privately(path, token + "\n")
    return token


def _token_file(settings: Settings) -> Path:
    return settings.data_dir / "demo.token"


def _settings_file(settings: Settings) -> Path:
    return settings.data_dir / "demo.env"


def _write_privately(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


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
