"""Schema migrations (Alembic, scripts in `migrations/`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.db.database import Database

_SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(database: Database, revision: str = "head") -> None:
    """Upgrade the schema. Concurrent calls from several processes run one after the other."""
    _run(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, revision: str) -> None:
    """Downgrade the schema to an earlier revision, or to `base`: no tables."""
    _run(database, lambda config: command.downgrade(config, revision))


def current_revision(database: Database) -> str | None:
    """The revision of the database's schema, or None if it has no tables."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


@functools.cache
def head_revision() -> str | None:
    """The revision that this version of the code requires."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config


def _run(database: Database, action: Callable[[Config], None]) -> None:
    config = _config()
    with database.migration_connection() as connection:
        config.attributes["connection"] = connection
        action(config)
