"""`flask webhooks`."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import click
from flask.cli import AppGroup

from app.audit import record
from app.commands.output import as_json_option, current_services, moment, operator, print_rows
from app.crypto.webhook_secrets import digest_of
from app.errors import CertcourierError
from app.jobs.kinds import JobKind
from app.services import Services

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
    ours, newest = services.webhook_prefix, services.webhook_secrets.current_digest()
    rows = [
        {
            "id": hook.id,
            "host": urlsplit(hook.url).netloc.rpartition("@")[2],
            "whose": _whose(hook.url, ours, newest),
            "suppressed_at": moment(hook.suppressed_at),
        }
        for hook in hooks
    ]
    print_rows(rows, as_json=as_json, empty="No webhooks; the worker registers ours when it starts.")


@group.command("rotate", epilog="Example: flask webhooks rotate")
@click.option("--wait", type=click.IntRange(0), default=60, show_default=True, help="Seconds to wait for a worker.")
def rotate(wait: int) -> None:
    """Give the webhook a new secret without losing an event; the old one is taken until DNSimple's retries are over."""
    services = current_services()
    try:
        with services.database.write() as session:
            newest = services.webhook_secrets.rotate(session)
            record(session, actor=operator(), action="webhook_secret.rotated", subject="webhook")
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    click.echo("New secret on record; both are accepted. A worker registers the new URL, then deletes the old one.")
    until = time.monotonic() + wait
    while not _is_done(services, newest):
        with services.database.write() as session:  # again: one that is being done now may not know of it
            services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
        if time.monotonic() >= until:
            raise click.ClickException("no worker has done it yet; it will be done as soon as one runs")
        time.sleep(0.5)
    ends = max(row.accepted_until for row in services.webhook_secrets.rows() if row.accepted_until)
    click.echo(f"Done. Events under the old secret are taken until {moment(ends)}.")
    if services.webhook_secrets.is_outdated():
        click.echo("Now leave WEBHOOK_SECRET and WEBHOOK_SECRET_FILE out on every host: they hold the old secret.")


def _is_done(services: Services, newest: str) -> bool:
    return all(row.accepted_until or row.digest == newest for row in services.webhook_secrets.rows())


def _whose(url: str, ours: str, newest: str) -> str:
    if not url.startswith(ours):
        return "another's"
    return "ours" if digest_of(url.removeprefix(ours)) == newest else "ours, outdated"
