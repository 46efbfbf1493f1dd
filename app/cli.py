"""`flask ...`: what an operator does by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy import select

from app.certificates import tokens as token_cases
from app.certificates.readiness import check_destinations, claim_installation
from app.errors import CertcourierError
from app.jobs.worker import Worker
from app.services import WEBHOOK_PATH, Services
from app.storage import migrating
from app.storage.models import Job

db_group = AppGroup("db", help="The database's tables.")
tokens_group = AppGroup("tokens", help="Tokens of the clients that may use this service.")
webhooks_group = AppGroup("webhooks", help="Webhooks of the DNSimple account.")
jobs_group = AppGroup("jobs", help="Work that is owed, running, done or given up.")

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def register_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    for command in (db_group, tokens_group, webhooks_group, jobs_group, worker):
        app.cli.add_command(command)


@click.command()
@with_appcontext
def worker() -> None:
    """Work on orders, events, certificates and deliveries until SIGTERM; run one or more beside the web server."""
    services = _services()
    try:
        claim_installation(services)
        check_destinations(services)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    working = Worker(services)
    working.stop_on_signals()
    working.run()


@db_group.command()
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Bring the tables forward to REVISION (by default the newest)."""
    migrating.upgrade(_services().database, revision)
    click.echo(f"The tables are at revision {migrating.current_revision(_services().database)}.")


@db_group.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Bring the tables back to REVISION, or to `base`: none. Data of dropped tables is lost."""
    migrating.downgrade(_services().database, revision)
    click.echo(f"The tables are at revision {migrating.current_revision(_services().database)}.")


@db_group.command()
def current() -> None:
    """Show the tables' revision and the one that this code expects; exits with 1 if they differ."""
    found, expected = migrating.current_revision(_services().database), migrating.head_revision()
    click.echo(f"The tables are at revision {found}; this code expects {expected}.")
    if found != expected:
        raise SystemExit(1)


@tokens_group.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(token_cases.SCOPES),
    help="What the token may do; repeat for more. By default issue and read.",
)
@_as_json
def create_token(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a token for the client NAME. It is shown this once and kept only as a hash."""
    created, token = token_cases.create_token(_services(), name, scopes or ("issue", "read"))
    if as_json:
        click.echo(json.dumps({"id": created.id, "name": name, "scopes": created.scopes, "token": token}))
        return
    click.echo(f"Token {created.id} for {name} ({', '.join(created.scopes)}). It is not shown again:", err=True)
    click.echo(token)


@tokens_group.command("list")
@_as_json
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
        for row in token_cases.list_tokens(_services())
    ]
    _print(rows, as_json=as_json, empty="No tokens; make one with `flask tokens create NAME`.")


@tokens_group.command("revoke")
@click.argument("token_id")
def revoke_token(token_id: str) -> None:
    """Make the token with this ID worthless, at once and on every host."""
    if not token_cases.revoke_token(_services(), token_id):
        raise click.ClickException(f"no valid token has the ID {token_id}; see `flask tokens list`")
    click.echo(f"Token {token_id} is revoked.")


@webhooks_group.command("list")
@_as_json
def list_webhooks(as_json: bool) -> None:
    """List the webhooks of the DNSimple account; ours are marked. Paths are not shown: they can hold secrets."""
    services = _services()
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
    _print(rows, as_json=as_json, empty="No webhooks; the worker registers ours when it starts.")


@jobs_group.command("list")
@click.option("--state", type=click.Choice(["ready", "running", "done", "dead", "cancelled"]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@_as_json
def list_jobs(state: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    with _services().database.read() as session:
        found = session.scalars(query.where(Job.state == state) if state else query).all()
    rows = [
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "attempts": job.attempts,
            "due_at": job.due_at.isoformat(timespec="seconds"),
            "about": " ".join(f"{name}={value}" for name, value in job.args.items() if value is not None),
            "last_error": job.last_error,
        }
        for job in found
    ]
    _print(rows, as_json=as_json, empty="No such jobs.")


@jobs_group.command("retry")
@click.argument("job_id", type=int)
def retry_job(job_id: int) -> None:
    """Let a dead job start afresh."""
    services = _services()
    with services.database.write() as session:
        if not services.queue.revive(session, job_id):
            raise click.ClickException(f"no dead job has the ID {job_id}; see `flask jobs list --state dead`")
    click.echo(f"Job {job_id} starts again.")


@jobs_group.command("cancel")
@click.argument("job_id", type=int)
def cancel_job(job_id: int) -> None:
    """Drop a job that has not finished."""
    services = _services()
    with services.database.write() as session:
        if not services.queue.cancel(session, job_id):
            raise click.ClickException(f"no unfinished job has the ID {job_id}; see `flask jobs list`")
    click.echo(f"Job {job_id} is cancelled.")


def _services() -> Services:
    services: Services = current_app.extensions["certcourier"].services
    return services


def _whose(url: str, ours: str, wanted: str) -> str:
    if url == wanted:
        return "ours"
    return "ours, outdated" if url.startswith(ours) else "another's"


def _print(rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    cells = [
        list(rows[0]),
        *([("-" if value is None else str(value)) for value in row.values()] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
