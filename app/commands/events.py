"""`certcourier events`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.certificates import queries
from app.commands.options import RECORD_ID, as_json_option, limit_option
from app.commands.output import current_services, moment, print_rows

group = AppGroup("events", help="Inspect events received from DNSimple.")


@group.command("list", epilog="Example: certcourier events list --certificate 101967")
@click.option("--certificate", "certificate_id", type=RECORD_ID, help="Filter by certificate ID.")
@limit_option
@as_json_option
def list_events(certificate_id: int | None, limit: int, as_json: bool) -> None:
    """List events, newest first."""
    rows = [
        {
            "received_at": moment(event.received_at),
            "name": event.name,
            "outcome": event.outcome,
            "certificate_id": event.certificate_id,
            "request_identifier": event.request_identifier,
        }
        for event in queries.list_events(current_services().database, certificate_id=certificate_id, limit=limit).rows
    ]
    print_rows(rows, as_json=as_json, empty="No matching events.")
