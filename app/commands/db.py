"""`flask db`."""

from __future__ import annotations

import click
from flask.cli import AppGroup
from sqlalchemy import inspect

from app.commands.output import current_services, operator
from app.storage import migrating
from app.storage.audit import record
from app.storage.database import Database
from app.storage.models import AuditEntry

group = AppGroup("db", help="The database's tables.")


@group.command()
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Bring the tables forward to REVISION (by default the newest)."""
    database = current_services().database
    before = migrating.current_revision(database)
    migrating.upgrade(database, revision)
    after = migrating.current_revision(database)
    if after != before:
        _record_change(database, before, after)
    click.echo(f"The tables are at revision {after}.")


@group.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Bring the tables back to REVISION, or to `base`: none. Data of dropped tables is lost."""
    migrating.downgrade(current_services().database, revision)
    click.echo(f"The tables are at revision {migrating.current_revision(current_services().database)}.")


@group.command()
def current() -> None:
    """Show the tables' revision and the one that this code expects; exits with 1 if they differ."""
    found, expected = migrating.current_revision(current_services().database), migrating.head_revision()
    click.echo(f"The tables are at revision {found}; this code expects {expected}.")
    if found != expected:
        raise SystemExit(1)


def _record_change(database: Database, before: str | None, after: str | None) -> None:
    with database.engine.connect() as connection:
        kept = inspect(connection).has_table(AuditEntry.__tablename__)
    if kept:
        with database.write() as session:
            detail = {"before": before, "after": after}
            record(session, actor=operator(), action="tables.upgraded", subject="database", detail=detail)
