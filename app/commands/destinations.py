"""`flask destinations`."""

from __future__ import annotations

import click
from flask.cli import AppGroup
from sqlalchemy import select

from app.commands.output import as_json_option, counted, current_services, moment, operator, print_rows
from app.db.models import SuspendedDestination
from app.deliveries import suspension

group = AppGroup("destinations", help="Places that certificates are delivered to.")


@group.command("list", epilog="Example: flask destinations list")
@as_json_option
def list_destinations(as_json: bool) -> None:
    """List the destinations, and which of them are disabled because the other side wants no more deliveries."""
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
    print_rows(rows, as_json=as_json, empty="No destinations.")


@group.command("enable", epilog="Example: flask destinations enable cdn")
@click.argument("name")
def enable(name: str) -> None:
    """Deliver again to the destination NAME that was disabled; what failed there starts afresh."""
    revived = suspension.resume(current_services(), name, actor=operator())
    if revived is None:
        raise click.ClickException(f"no destination {name!r} is disabled; see `flask destinations list`")
    click.echo(f"{name} is enabled; {counted(revived, 'failed delivery starts', 'failed deliveries start')} again.")
