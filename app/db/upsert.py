"""Inserts that skip existing rows, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.models import Base


def insert_once(session: Session, model: type[Base], **values: Any) -> bool:
    """Insert a row unless a unique constraint is violated. True if it was inserted.

    On PostgreSQL this waits for another transaction that is inserting the same row, so the result is definite.
    """
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement: Any = insert(model).values(**values).on_conflict_do_nothing().returning(literal_column("1"))
    return session.execute(statement).first() is not None


def insert_many_once(session: Session, model: type[Base], rows: Sequence[dict[str, Any]], key: str) -> set[Any]:
    """The same for many rows, which must have the same fields; returns the values of `key` that were inserted.

    Rows are inserted in the order of `key`, so that two transactions do not deadlock.
    """
    if not rows:
        return set()
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    table: Any = model.__table__
    statement: Any = insert(table).on_conflict_do_nothing().returning(table.c[key])
    return set(session.execute(statement, sorted(rows, key=lambda row: str(row[key]))).scalars())


def changed_rows(result: Any) -> int:
    """How many rows an UPDATE or DELETE changed."""
    return int(result.rowcount)
