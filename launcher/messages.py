"""Terminal output of `make run`."""

from __future__ import annotations

import sys
from contextlib import suppress

from config import Settings
from launcher.processes import reachable


def print_message(text: str, *, error: bool = False) -> None:
    """Print it. A closed terminal must not keep the children from being stopped."""
    with suppress(OSError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def banner(settings: Settings, *, simulated: bool) -> str:
    """Where the service listens and where its data is, with a clear notice if DNSimple is simulated."""
    where = f"Certcourier on {local_url(settings)}, {_data(settings)}"
    if not simulated:
        return f"{where}\nDNSimple: {settings.dnsimple_base_url}, account {settings.dnsimple_account_id}\n"
    width = 78
    lines = (
        "DNSimple is SIMULATED: no DNSIMPLE_API_TOKEN is configured.",
        "Certificates come from an untrusted test authority; nothing is purchased.",
    )
    rule = "*" * (width + 4)
    return "\n".join([rule, *(f"* {line:<{width}} *" for line in lines), rule, where, ""])


def first_steps(settings: Settings) -> str:
    """Next steps with a DNSimple account."""
    return f"""Ready. Create a token for a client:   .venv/bin/certcourier tokens create NAME
Then order a certificate:
  curl -i {local_url(settings)}/issue_certificate -H 'Authorization: Bearer TOKEN' -d domain=DOMAIN
{dashboard_hint(settings)} (sign in with a token: .venv/bin/certcourier tokens create NAME --scope read)
Ctrl-C stops everything."""


def dashboard_hint(settings: Settings) -> str:
    """Where the dashboard is."""
    return f"Dashboard: {local_url(settings)}/"


def local_url(settings: Settings) -> str:
    """Where the web server answers on this machine."""
    host = reachable(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _data(settings: Settings) -> str:
    """The data directory, and the database if it is elsewhere. Shows no password."""
    if settings.database_url == f"sqlite:///{settings.data_dir / 'certcourier.db'}":
        return f"data in {settings.data_dir}/"
    database = settings.model_dump(mode="json", include={"database_url"})["database_url"]
    return f"data in {database} and {settings.data_dir}/"
