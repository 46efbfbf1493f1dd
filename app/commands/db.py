"""`certcourier db`."""

from __future__ import annotations

import click
from flask.cli import AppGroup
from sqlalchemy import inspect

from app.audit import record
from app.commands.output import current_services, operator
from app.db import migrations
from app.db.database import Database
from app.db.models import AuditEntry

group = AppGroup("db", help="Manage the database schema.")


@group.command(epilog="Example: certcourier db upgrade")
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Upgrade the schema to REVISION (default: the newest)."""
    database = current_services().database
    before = migrations.current_revision(database)
    migrations.upgrade(database, revision)
    after = migrations.current_revision(database)
    if after != before:
        _audit_upgrade(database, before, after)
    click.echo(f"The schema is at revision {after}.")


@group.command(epilog="Example: certcourier db downgrade 0001")
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Downgrade the schema to REVISION, or remove it with `base`. Data in dropped tables is lost."""
    migrations.downgrade(current_services().database, revision)
    click.echo(f"The schema is at revision {migrations.current_revision(current_services().database)}.")


@group.command(epilog="Example: certcourier db current")
def current() -> None:
    """Show the schema's revision and the one this version expects; exits with 1 if they differ."""
    found, expected = migrations.current_revision(current_services().database), migrations.head_revision()
    click.echo(f"The schema is at revision {found}; this version expects {expected}.")
    if found != expected:
        raise SystemExit(1)


def _audit_upgrade(database: Database, before: str | None, after: str | None) -> None:
    with database.engine.connect() as connection:
        has_audit_trail = inspect(connection).has_table(AuditEntry.__tablename__)
    if has_audit_trail:
        with database.write() as session:
            detail = {"before": before, "after": after}
            record(session, actor=operator(), action="schema.upgraded", subject="database", detail=detail)
