"""Statements that both databases know and SQLAlchemy spells per dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.storage.models import Base


def insert_once(session: Session, model: type[Base], **values: Any) -> bool:
    """Insert a row unless a unique constraint says that it is there already. True if it was inserted.

    On PostgreSQL this waits for another transaction that is inserting the same row, so the answer is never a guess.
    """
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    result = session.execute(insert(model).values(**values).on_conflict_do_nothing())
    assert isinstance(result, CursorResult)  # noqa: S101, an INSERT always gives one; this tells the type checker
    return result.rowcount == 1


def changed_rows(result: Any) -> int:
    """How many rows an UPDATE or DELETE changed."""
    return int(result.rowcount)
