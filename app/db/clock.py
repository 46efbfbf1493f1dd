"""The database's time, the only clock that all hosts share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Float, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on both databases (SQLite itself knows no time zones)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime is ambiguous: pass one in UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_ahead_seconds = 0.0


def move_ahead(seconds: float) -> None:
    """Shift the database's clock for this process. Only the simulation (`tests/simulation`) uses this."""
    global _ahead_seconds  # noqa: PLW0603
    _ahead_seconds += seconds


class db_now(FunctionElement[datetime]):  # noqa: N801, it stands in queries like a function of the database
    """The database's current time plus `seconds`, with a precision of at least milliseconds."""

    type = UTCDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        # Called when the statement is executed: the defaults of columns are made once and live as long as the process.
        super().__init__(bindparam(None, callable_=lambda: seconds + _ahead_seconds, type_=Float, unique=True))


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    # Not now(): a lease counts from this statement, not from the transaction's start. Nor clock_timestamp(), which may
    # change within a statement, so that PostgreSQL uses no index for what is compared with it.
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    # The very text that SQLAlchemy stores for a datetime, so that comparisons are comparisons of strings.
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


class epoch(FunctionElement[int]):  # noqa: N801, likewise
    """A datetime column as whole seconds since 1970, for arithmetic inside the database."""

    type = BigInteger()
    inherit_cache = True


@compiles(epoch, "postgresql")
def _postgresql_epoch(element: epoch, compiler: SQLCompiler, **kw: Any) -> str:
    return f"floor(extract(epoch FROM {compiler.process(element.clauses, **kw)}))::bigint"


@compiles(epoch, "sqlite")
def _sqlite_epoch(element: epoch, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(strftime('%s', {compiler.process(element.clauses, **kw)}) AS INTEGER)"


def read_now(session: Session) -> datetime:
    """The database's current time, aware, in UTC."""
    now: datetime = session.execute(select(db_now())).scalar_one()
    return now
