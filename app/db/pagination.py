"""Pages of rows in a fixed order, each with an opaque cursor to the next page (keyset pagination).

A cursor holds the sort key of a page's last row, so every page costs one range of an index, however far down it is.
"""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, String, and_, or_
from sqlalchemy.orm import Session

from app.domain_names import InvalidFieldError
from app.identifiers import is_id


@dataclass(frozen=True, slots=True)
class Page[T]:
    """Some rows, and the cursor of the next page; None on the last page."""

    rows: list[T]
    next_cursor: str | None


def paginate[T](
    session: Session,
    query: Select[T],
    order: Mapping[str, Any],
    *,
    cursor: str | None,
    limit: int,
    descending: bool = False,
) -> Page[T]:
    """One page of the query's rows.

    `order` maps one or two attributes of the rows to the columns to sort by; the last one is unique. Raises
    `InvalidFieldError` for a cursor that does not belong to this order.
    """
    columns = list(order.values())
    if cursor is not None:
        query = query.where(_beyond(columns, _decode(cursor, columns), descending=descending))
    query = query.order_by(*(column.desc() if descending else column for column in columns))
    rows = list(session.scalars(query.limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], _encode([getattr(last, attribute) for attribute in order]))


def _beyond(columns: Sequence[Any], values: Sequence[Any], *, descending: bool) -> ColumnElement[bool]:
    is_beyond, is_at_or_beyond = (operator.lt, operator.le) if descending else (operator.gt, operator.ge)
    if len(columns) == 1:
        return is_beyond(columns[0], values[0])  # type: ignore[no-any-return]  # an operator of a column
    (first, second), (first_value, second_value) = columns, values
    # The first condition is what an index can follow.
    return and_(
        is_at_or_beyond(first, first_value), or_(is_beyond(first, first_value), is_beyond(second, second_value))
    )


def _encode(values: Sequence[Any]) -> str:
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode()


def _decode(cursor: str, columns: Sequence[Any]) -> list[Any]:
    try:
        values = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii"))
        return [_parse(value, column) for value, column in zip(values, columns, strict=True)]
    except (ValueError, TypeError, RecursionError):
        raise InvalidFieldError("cursor", "is not a cursor that this service returned for this list") from None


def _parse(value: object, column: Any) -> Any:
    """A value that a cursor holds, as the column's type. Raises `ValueError` or `TypeError`."""
    if isinstance(column.type, Integer):
        if not is_id(value):
            raise ValueError
        return value
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError
    if isinstance(column.type, String):
        return value
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None or not 1970 <= instant.year < 9000:
        raise ValueError
    return instant
