"""`flask tokens`."""

from __future__ import annotations

import json

import click
from flask.cli import AppGroup

from app.certificates import tokens as token_cases
from app.commands.output import as_json_option, current_services, print_rows

group = AppGroup("tokens", help="Tokens of the clients that may use this service.")


@group.command("create", epilog="Example: flask tokens create billing --scope issue --scope read")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(token_cases.SCOPES),
    help="What the token may do; repeat for more. By default issue and read.",
)
@as_json_option
def create_token(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a token for the client NAME. It is shown this once and kept only as a hash."""
    created, token = token_cases.create_token(current_services(), name, scopes or ("issue", "read"))
    if as_json:
        click.echo(json.dumps({"id": created.id, "name": name, "scopes": created.scopes, "token": token}))
        return
    click.echo(f"Token {created.id} for {name} ({', '.join(created.scopes)}). It is not shown again:", err=True)
    click.echo(token)


@group.command("list", epilog="Example: flask tokens list")
@as_json_option
def list_tokens(as_json: bool) -> None:
    """List the tokens, with when each was used last."""
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "scopes": " ".join(row.scopes),
            "created_at": row.created_at.isoformat(timespec="seconds"),
            "last_used_at": row.last_used_at.isoformat(timespec="seconds") if row.last_used_at else None,
            "revoked_at": row.revoked_at.isoformat(timespec="seconds") if row.revoked_at else None,
        }
        for row in token_cases.list_tokens(current_services())
    ]
    print_rows(rows, as_json=as_json, empty="No tokens; make one with `flask tokens create NAME`.")


@group.command("revoke", epilog="Example: flask tokens revoke tok_01k...")
@click.argument("token_id")
def revoke_token(token_id: str) -> None:
    """Make the token with this ID worthless, at once and on every host."""
    if not token_cases.revoke_token(current_services(), token_id):
        raise click.ClickException(f"no valid token has the ID {token_id}; see `flask tokens list`")
    click.echo(f"Token {token_id} is revoked.")
