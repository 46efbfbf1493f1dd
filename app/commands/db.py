"""`flask db`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.commands.output import current_services
from app.storage import migrating

group = AppGroup("db", help="The database's tables.")


@group.command(epilog="Example: flask db upgrade")
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Bring the tables forward to REVISION (by default the newest)."""
    migrating.upgrade(current_services().database, revision)
    click.echo(f"The tables are at revision {migrating.current_revision(current_services().database)}.")


@group.command(epilog="Example: flask db downgrade 0001")
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Bring the tables back to REVISION, or to `base`: none. Data of dropped tables is lost."""
    migrating.downgrade(current_services().database, revision)
    click.echo(f"The tables are at revision {migrating.current_revision(current_services().database)}.")


@group.command(epilog="Example: flask db current")
def current() -> None:
    """Show the tables' revision and the one that this code expects; exits with 1 if they differ."""
    found, expected = migrating.current_revision(current_services().database), migrating.head_revision()
    click.echo(f"The tables are at revision {found}; this code expects {expected}.")
    if found != expected:
        raise SystemExit(1)
