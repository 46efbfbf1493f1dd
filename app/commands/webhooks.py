"""`flask webhooks`."""

from __future__ import annotations

from urllib.parse import urlsplit

import click
from flask.cli import AppGroup

from app.commands.output import as_json_option, current_services, print_rows
from app.errors import CertcourierError
from app.services import WEBHOOK_PATH

group = AppGroup("webhooks", help="Webhooks of the DNSimple account.")


@group.command("list", epilog="Example: flask webhooks list --json")
@as_json_option
def list_webhooks(as_json: bool) -> None:
    """List the webhooks of the DNSimple account; ours are marked. Paths are not shown: they can hold secrets."""
    services = current_services()
    try:
        hooks = services.dnsimple.webhooks()
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    ours = f"{services.settings.public_url}{WEBHOOK_PATH}/"
    rows = [
        {
            "id": hook.id,
            "host": urlsplit(hook.url).netloc.rpartition("@")[2],
            "whose": _whose(hook.url, ours, services.webhook_url),
            "suppressed_at": hook.suppressed_at.isoformat() if hook.suppressed_at else None,
        }
        for hook in hooks
    ]
    print_rows(rows, as_json=as_json, empty="No webhooks; the worker registers ours when it starts.")


def _whose(url: str, ours: str, wanted: str) -> str:
    if url == wanted:
        return "ours"
    return "ours, outdated" if url.startswith(ours) else "another's"
