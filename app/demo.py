"""The demo of `make run`: settings for `flask -e`, one certificate, its story as it happens, and what to do next."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
from dotenv import set_key

from app.certificates.tokens import authenticate, create_token
from app.running import LaunchError, say
from app.services import Services
from config import Settings

DEMO_DOMAIN = "customer.example"
_LONG_SECONDS = 120


def demo_settings(settings: Settings) -> Path:
    """The file for `flask -e`."""
    return settings.var_dir / "demo.env"


def write_settings(settings: Settings, environment: Mapping[str, str]) -> None:
    """Everything that is not left to its default, with whole paths: commands are typed in any folder."""
    path = demo_settings(settings)
    path.unlink(missing_ok=True)
    path.touch(0o600)
    given = {name for name in Settings.model_fields if environment.get(name.upper())} | {"var_dir"}
    for name in sorted(given):
        value = getattr(settings, name)
        if isinstance(value, Path):
            text = str(value.resolve())
        elif name == "database_url" and settings.is_sqlite:
            text = f"sqlite:///{Path(settings.database_url.removeprefix('sqlite:///')).resolve()}"
        else:
            text = environment[name.upper()]
        set_key(path, name.upper(), text, quote_mode="auto")


def demonstrate(services: Services, url: str, stopping: threading.Event, *, check: Callable[[], None]) -> None:
    """Order one certificate for the demo domain, unless an earlier run has, and tell its story as it happens.

    `check` raises `LaunchError` when a process has ended.
    """
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {_demo_token(services)}"
    earlier = session.get(f"{url}/orders", params={"domain": DEMO_DOMAIN, "state": "installed"}, timeout=10)
    earlier.raise_for_status()
    if earlier.json()["data"]:
        say(f"The certificate for {DEMO_DOMAIN} is there from an earlier run. Its story:\n")
        order_id = earlier.json()["data"][0]["order_id"]
    else:
        say(f"Ordering a certificate for {DEMO_DOMAIN}. Its story:\n")
        ordered = session.post(f"{url}/issue_certificate", json={"domain": DEMO_DOMAIN}, timeout=60)
        if ordered.status_code != 202:
            raise LaunchError(f"the order was refused: {ordered.text}")
        order_id = ordered.json()["data"]["order_id"]
    order = _tell_story(session, f"{url}/orders/{order_id}", stopping, check)
    if order is not None:
        say(_what_next(services.settings, url, order))


def _tell_story(
    session: requests.Session, url: str, stopping: threading.Event, check: Callable[[], None]
) -> dict[str, Any] | None:
    """Print each new line until the certificate is delivered. None when it is time to stop."""
    told: set[tuple[str, str]] = set()
    looks = 0
    while not stopping.is_set():
        check()
        answer = session.get(url, timeout=10)
        answer.raise_for_status()
        order: dict[str, Any] = answer.json()["data"]
        for line in order["story"]:
            _tell_once(told, line["at"][11:23], line["step"], line["detail"])
        if order["order_state"] == "failed":
            raise LaunchError(f"the demo's order failed: {order['failure']['detail']}")
        for delivery in order["deliveries"]:
            if delivery["state"] in {"pending", "failed"} and delivery["detail"]:
                _tell_once(told, "", delivery["state"], f"{delivery['destination']}: {delivery['detail']}")
        states = [delivery["state"] for delivery in order["deliveries"]]
        if states and set(states) <= {"delivered", "superseded"}:
            return order
        looks += 1
        if looks == _LONG_SECONDS * 5:
            say(f"  Not delivered after {_LONG_SECONDS} seconds; it is tried again and again. Ctrl-C stops everything.")
        stopping.wait(0.2)
    return None


def _tell_once(told: set[tuple[str, str]], at: str, step: str, detail: str) -> None:
    if (at or detail, step) not in told:
        told.add((at or detail, step))
        say(f"  {at:<12}  {step:<15} {detail}")


def _demo_token(services: Services) -> str:
    """A token for the demo's curl and dashboard, kept in a file so that it still works after the next `make run`."""
    path = services.settings.var_dir / "demo.token"
    if path.exists():
        token = path.read_text().strip()
        if authenticate(services, token):
            return token
        path.unlink()
    _, token = create_token(services, "demo", ("issue", "read", "admin"))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    return token


def _what_next(settings: Settings, url: str, order: dict[str, Any]) -> str:
    token, commands = settings.var_dir / "demo.token", f".venv/bin/flask -e {demo_settings(settings)}"
    return f"""{_look_at_files(order)}
Order the next one, and wait for it:
  curl -i {url}/issue_certificate \\
    -H "Authorization: Bearer $(cat {token})" -H 'Prefer: wait=30' \\
    -H 'Content-Type: application/json' -d '{{"domain": "shop.example", "san": ["blog"]}}'

See all of them, and whether all is well:
  {commands} certificates list
  {commands} doctor

The dashboard is {url}/ : sign in with the token that `cat {token}` shows.
The interface's page is {url}/docs (any user, that token as password); logs are in {settings.var_dir}/log/.
Ctrl-C stops everything."""


def _look_at_files(order: dict[str, Any]) -> str:
    """Where it is as files to look at, if one of the destinations has put it so."""
    for delivery in order["deliveries"]:
        if (Path(delivery["detail"] or "") / "fullchain.pem").is_file():
            return f"""
The files are in {delivery["detail"]}/

Look at the certificate:
  openssl x509 -in {delivery["detail"]}/fullchain.pem -noout -subject -ext subjectAltName -dates
"""
    return ""
