"""What `make run` says at the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

from config import Settings
from launcher.processes import reachable


def print_message(text: str, *, error: bool = False) -> None:
    """Print it. A terminal that was closed is no reason to leave anything running."""
    with suppress(OSError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def banner(settings: Settings, *, simulated: bool) -> str:
    """Where the service is and where its data are; a simulated DNSimple cannot be overlooked."""
    where = f"Certcourier on {local_url(settings)}, {_data(settings)}"
    if not simulated:
        return f"{where}\nDNSimple: {settings.dnsimple_base_url}, account {settings.dnsimple_account_id}\n"
    width = 78
    lines = (
        "DNSimple is SIMULATED: no DNSIMPLE_API_TOKEN is configured.",
        "Certificates come from a test authority that nobody trusts; nothing is bought.",
    )
    rule = "*" * (width + 4)
    return "\n".join([rule, *(f"* {line:<{width}} *" for line in lines), rule, where, ""])


def first_steps(settings: Settings) -> str:
    """What to do next with a DNSimple account."""
    return f"""Ready. Make a token for a client:   .venv/bin/flask tokens create NAME
Then order a certificate:
  curl -i {local_url(settings)}/issue_certificate -H 'Authorization: Bearer TOKEN' -d domain=DOMAIN
{dashboard_hint(settings)} (a token of its own: .venv/bin/flask tokens create NAME --scope read)
Ctrl-C stops everything."""


def dashboard_hint(settings: Settings) -> str:
    """Where the dashboard is."""
    return f"Dashboard: {local_url(settings)}/"


def local_url(settings: Settings) -> str:
    """Where the web server answers on this machine."""
    host = reachable(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _data(settings: Settings) -> str:
    """Both places, where the database is not in the folder of everything else. Shows no password."""
    if settings.database_url == f"sqlite:///{settings.data_dir / 'certcourier.db'}":
        return f"data in {settings.data_dir}/"
    database = settings.model_dump(mode="json", include={"database_url"})["database_url"]
    return f"data in {database} and {settings.data_dir}/"
