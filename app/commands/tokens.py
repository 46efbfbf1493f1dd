"""`certcourier tokens`."""

from __future__ import annotations

import json
import re

import click
from flask.cli import AppGroup

from app.auth import tokens
from app.auth.scopes import SCOPES, parse_patterns
from app.commands.options import as_json_option
from app.commands.output import current_services, moment, operator, print_rows
from app.errors import PermanentError

_UNITS = {"d": 86400, "h": 3600, "m": 60}

group = AppGroup("tokens", help="Create, list and revoke API tokens.")


@group.command("create", epilog="Example: certcourier tokens create billing --scope issue --scope read")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="Scope to grant; repeatable. Default: issue and read. The admin scope implies both.",
)
@click.option(
    "--domains",
    help="Restrict the token to these domains, comma-separated: `example.org` is that domain with all names inside it, "
    "`*.example.com` every domain below example.com. Default: all domains.",
)
@click.option("--expires", help="Lifetime of the token: 90d, 12h or 30m. Default: it does not expire.")
@as_json_option
def create_token(name: str, scopes: tuple[str, ...], domains: str | None, expires: str | None, as_json: bool) -> None:
    """Create a token for the client NAME. It is shown only once; only its hash is stored."""
    try:
        created, token = tokens.create_token(
            current_services().database,
            name,
            scopes or ("issue", "read"),
            domains=None if domains is None else parse_patterns(domains),
            valid_seconds=None if expires is None else _seconds(expires),
            actor=operator(),
        )
    except PermanentError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        document = {
            "id": created.id,
            "name": name,
            "scopes": created.scopes,
            "domains": created.domains,
            "token": token,
        }
        click.echo(json.dumps(document))
        return
    limits = f" for {', '.join(created.domains)}" if created.domains else ""
    click.echo(
        f"Token {created.id} for {name} ({', '.join(created.scopes)}{limits}). It will not be shown again:", err=True
    )
    click.echo(token)


@group.command("list", epilog="Example: certcourier tokens list")
@as_json_option
def list_tokens(as_json: bool) -> None:
    """List tokens, and when each was last used."""
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "scopes": " ".join(row.scopes),
            "domains": None if row.domains is None else ",".join(row.domains),
            "created_at": moment(row.created_at),
            "expires_at": moment(row.expires_at),
            "last_used_at": moment(row.last_used_at),
            "revoked_at": moment(row.revoked_at),
        }
        for row in tokens.list_tokens(current_services().database)
    ]
    print_rows(rows, as_json=as_json, empty="No tokens. Create one with `certcourier tokens create NAME`.")


@group.command("revoke", epilog="Example: certcourier tokens revoke tok_01k...")
@click.argument("token_id")
def revoke_token(token_id: str) -> None:
    """Revoke a token. It stops working immediately on all hosts."""
    if not tokens.revoke_token(current_services().database, token_id, actor=operator()):
        raise click.ClickException(f"no valid token has the ID {token_id}; see `certcourier tokens list`")
    click.echo(f"Token {token_id} revoked.")


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text.strip())
    if match is None:
        raise click.BadParameter("must be a number with a unit: 90d, 12h or 30m", param_hint="--expires")
    return int(match[1]) * _UNITS[match[2]]
