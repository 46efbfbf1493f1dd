"""Statements that both databases know and SQLAlchemy spells per dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.storage.models import Base


def insert_once(session: Session, model: type[Base], **values: Any) -> bool:
    """Insert a row unless a unique constraint says that it is there already. True if it was inserted.

    On PostgreSQL this waits for another transaction that is inserting the same row, so the answer is never a guess.
    """
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement: Any = insert(model).values(**values).on_conflict_do_nothing().returning(literal_column("1"))
    return session.execute(statement).first() is not None


def changed_rows(result: Any) -> int:
    """How many rows an UPDATE or DELETE changed."""
    return int(result.rowcount)
