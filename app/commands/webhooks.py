"""`certcourier webhooks`."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import click
from flask.cli import AppGroup

from app.audit import record
from app.commands.options import as_json_option
from app.commands.output import current_services, moment, operator, print_rows
from app.crypto.webhook_secrets import WebhookSecrets, digest_of
from app.errors import CertcourierError
from app.jobs.kinds import JobKind

group = AppGroup("webhooks", help="List the account's webhooks and rotate the webhook secret.")


@group.command("list", epilog="Example: certcourier webhooks list --json")
@as_json_option
def list_webhooks(as_json: bool) -> None:
    """List the webhooks of the DNSimple account and who owns them. Paths are hidden because they can hold secrets."""
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
            "owner": _owner(hook.url, ours, newest),
            "suppressed_at": moment(hook.suppressed_at),
        }
        for hook in hooks
    ]
    print_rows(rows, as_json=as_json, empty="No webhooks. The worker registers Certcourier's when it starts.")


@group.command("rotate", epilog="Example: certcourier webhooks rotate")
@click.option("--wait", type=click.IntRange(0), default=60, show_default=True, help="Seconds to wait for a worker.")
def rotate(wait: int) -> None:
    """Rotate the webhook's secret without losing events; the old one is accepted until DNSimple's retries end."""
    services = current_services()
    try:
        with services.database.write() as session:
            newest = services.webhook_secrets.rotate(session)
            record(session, actor=operator(), action="webhook_secret.rotated", subject="webhook")
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    click.echo("New secret stored; both secrets are accepted. The worker now replaces the webhook.")
    deadline = time.monotonic() + wait
    while not _is_done(services.webhook_secrets, newest):
        with services.database.write() as session:  # a registration in progress may predate it
            services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
        if time.monotonic() >= deadline:
            raise click.ClickException("the new URL is not registered yet; that happens as soon as a worker runs")
        time.sleep(0.5)
    accepted_until = max(row.accepted_until for row in services.webhook_secrets.rows() if row.accepted_until)
    click.echo(f"Done. Events with the old secret are accepted until {moment(accepted_until)}.")
    if services.webhook_secrets.is_outdated():
        click.echo("Now remove WEBHOOK_SECRET and WEBHOOK_SECRET_FILE on every host: they hold the old secret.")


def _is_done(webhook_secrets: WebhookSecrets, newest: str) -> bool:
    return all(row.accepted_until or row.digest == newest for row in webhook_secrets.rows())


def _owner(url: str, ours: str, newest: str) -> str:
    if not url.startswith(ours):
        return "other"
    return "certcourier" if digest_of(url.removeprefix(ours)) == newest else "certcourier (outdated)"
