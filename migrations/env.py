"""Alembic's entry. Run through `certcourier db upgrade`, which hands in the connection (see app/db/migrations.py)."""

from alembic import context

from app.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by recreating it
    compare_type=True,
)
context.run_migrations()
