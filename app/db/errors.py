"""Explains database failures to an operator: the driver's first line, never the statement or the URL."""

from __future__ import annotations

import re

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_UPGRADE = "run `certcourier db upgrade`"
_REACH = "check that the database is running and that DATABASE_URL is correct"
_MISSING_TABLES = {"42P01", "42703"}  # PostgreSQL's undefined_table, undefined_column


def explain_failure(error: SQLAlchemyError) -> tuple[str, str]:
    """What happened and what to do. Neither contains a secret."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    if cause is None:
        return f"the database failed ({type(error).__name__})", _REACH
    message = next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
    # A word with an @ may contain part of a password that was not percent-encoded.
    message = re.sub(r'"[^"]*@[^"]*"|\S*@\S*', "***", message)
    if getattr(cause, "sqlstate", None) in _MISSING_TABLES or message.startswith(("no such table", "no such column")):
        return f"the database's tables are missing or of another version ({message})", _UPGRADE
    if re.search(r'database "[^"]*" does not exist', message):
        return (
            f"the database failed: {message}",
            "create it, or correct DATABASE_URL; then run `certcourier db upgrade`",
        )
    if message.startswith("unable to open database file"):
        return (
            f"the database failed: {message}",
            "check that the folder in DATABASE_URL exists and is owned by this user",
        )
    return f"the database failed: {message}", _REACH
