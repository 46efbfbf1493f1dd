"""`certcourier audit`."""

from __future__ import annotations

import json

import click
from flask.cli import AppGroup

from app import audit
from app.commands.options import as_json_option, limit_option
from app.commands.output import counted, current_services, print_rows

group = AppGroup("audit", help="List, export and verify the audit trail.")


@group.command("list", epilog="Example: certcourier audit list --limit 20")
@limit_option
@as_json_option
def list_entries(limit: int, as_json: bool) -> None:
    """List audit entries, newest first."""
    with current_services().database.read() as session:
        entries = [audit.document(entry) for entry in audit.newest(session, limit)]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
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
        for entry in entries
    ]
    print_rows(rows, as_json=False, empty="No audit entries.")


@group.command("export", epilog="Example: certcourier audit export > audit.jsonl")
def export_entries() -> None:
    """Write all entries to standard output as JSON Lines, oldest first."""
    with current_services().database.read() as session:
        for entry in audit.entries(session):
            click.echo(json.dumps(audit.document(entry)))


@group.command("verify", epilog="Example: certcourier audit verify")
@click.option("--known", help="A head (NUMBER:HASH) that was recorded elsewhere and must still be part of the trail.")
def verify_entries(known: str | None) -> None:
    """Verify the hash chain from its first entry; exits with 1 and names the first invalid entry."""
    try:
        head = audit.Head.parse(known) if known else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--known") from None
    try:
        with current_services().database.read() as session:
            verified = audit.verify(session, known=head)
    except audit.AuditBrokenError as error:
        raise click.ClickException(f"the audit trail is broken. {error}") from None
    click.echo(f"{counted(verified.number, 'entry', 'entries')}, intact. Record the head elsewhere:", err=True)
    click.echo(str(verified))
