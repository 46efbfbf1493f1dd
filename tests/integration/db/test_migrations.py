"""The migrations create the tables of the models, on both databases."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.db.database import Database
from app.db.migrations import current_revision, downgrade, head_revision, upgrade
from app.db.models import Base

pytestmark = pytest.mark.both_databases

# An index of an expression, which Alembic cannot compare.
_OF_EXPRESSIONS = {"ix_certificates_search"}


# Alembic warns that it does not compare that index; the filter does the same.
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_the_migrations_create_the_models_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        opts = {"compare_type": True, "include_object": lambda _object, name, *_: name not in _OF_EXPRESSIONS}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_can_be_downgraded_and_upgraded(database: Database) -> None:
    downgrade(database, "base")
    assert current_revision(database) is None
    upgrade(database)
    assert current_revision(database) == head_revision()
