"""DNSimple's numeric IDs: positive integers of at most 63 bits, which is what a BIGINT column holds."""

from __future__ import annotations

from typing import TypeGuard

LARGEST_ID = 2**63 - 1


def is_id(value: object) -> TypeGuard[int]:
    """Whether `value` can be an ID. A boolean is an `int` in Python, but no ID."""
    return type(value) is int and 0 < value <= LARGEST_ID


def parse_id(text: str) -> int | None:
    """The ID that is written in decimal digits, or None if `text` is not one."""
    # Bounded before it is converted: Python refuses to convert digits without end.
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return value if is_id(value) else None
