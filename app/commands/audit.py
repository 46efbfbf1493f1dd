"""`flask audit`."""

from __future__ import annotations

import json

import click
from flask.cli import AppGroup

from app import audit
from app.commands.output import as_json_option, counted, current_services, print_rows

group = AppGroup("audit", help="The trail of who did what.")


@group.command("list", epilog="Example: flask audit list --limit 20")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
def list_entries(limit: int, as_json: bool) -> None:
    """List the newest entries."""
    with current_services().database.read() as session:
        found = [audit.document(entry) for entry in audit.newest(session, limit)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        {
            "number": entry["number"],
            "at": entry["at"],
            "actor": entry["actor"],
            "action": entry["action"],
            "subject": entry["subject"],
            "detail": " ".join(f"{name}={json.dumps(value)}" for name, value in entry["detail"].items()),
        }
        for entry in found
    ]
    print_rows(rows, as_json=False, empty="No entries yet.")


@group.command("export", epilog="Example: flask audit export > audit.jsonl")
def export_entries() -> None:
    """Write all entries, oldest first, one JSON object a line."""
    with current_services().database.read() as session:
        for entry in audit.entries(session):
            click.echo(json.dumps(audit.document(entry)))


@group.command("verify", epilog="Example: flask audit verify")
@click.option("--known", help="A head (NUMBER:HASH) that was noted elsewhere: it must still be part of the trail.")
def verify_entries(known: str | None) -> None:
    """Follow the chain from its beginning; exits with 1 and names the first entry that is wrong."""
    try:
        head = audit.Head.parse(known) if known else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--known") from None
    try:
        with current_services().database.read() as session:
            found = audit.verify(session, known=head)
    except audit.AuditBrokenError as error:
        raise click.ClickException(f"the audit trail is broken. {error}") from None
    click.echo(f"{counted(found.number, 'entry', 'entries')}, unbroken. Note the head elsewhere:", err=True)
    click.echo(str(found))
