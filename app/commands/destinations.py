"""`certcourier destinations`."""

from __future__ import annotations

import click
from flask.cli import AppGroup
from sqlalchemy import select

from app.commands.options import as_json_option
from app.commands.output import counted, current_services, moment, operator, print_rows
from app.db.models import SuspendedDestination
from app.deliveries import suspension

group = AppGroup("destinations", help="List destinations and resume suspended ones.")


@group.command("list", epilog="Example: certcourier destinations list")
@as_json_option
def list_destinations(as_json: bool) -> None:
    """List destinations, and which of them are suspended because the receiver answered 410 Gone."""
    services = current_services()
    with services.database.read() as session:
        suspended = {row.destination: row for row in session.scalars(select(SuspendedDestination))}
    rows = [
        {
            "name": name,
            "kind": getattr(destination.config, "kind", None),
            "suspended_at": moment(suspended[name].suspended_at) if name in suspended else None,
            "reason": suspended[name].reason if name in suspended else None,
        }
        for name, destination in services.destinations.items()
    ]
    print_rows(rows, as_json=as_json, empty="No destinations configured.")


@group.command("resume", epilog="Example: certcourier destinations resume cdn")
@click.argument("name")
def resume(name: str) -> None:
    """Resume deliveries to the suspended destination NAME, and retry what failed there."""
    retried = suspension.resume(current_services().database, current_services().queue, name, actor=operator())
    if retried is None:
        raise click.ClickException(f"no suspended destination is named {name!r}; see `certcourier destinations list`")
    click.echo(f"{name} is resumed; {counted(retried, 'failed delivery', 'failed deliveries')} queued for retry.")
