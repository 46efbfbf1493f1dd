"""Which domains a token may order for and read about.

A pattern is a domain of the account, with all names inside it (`example.org`), or every domain below one, at any depth
and without that one itself (`*.example.com`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, false, or_

from app.domain_names import InvalidFieldError, parse_domain
from app.errors import PermanentError


class DomainNotPermittedError(PermanentError):
    """An order for a domain that its token is not made for; `field` is the request's."""

    field = "domain"


def parse_patterns(text: str) -> tuple[str, ...]:
    """Patterns from a comma-separated text, as lower-case A-labels. Raises `InvalidFieldError`."""
    patterns = dict.fromkeys(_pattern(part.strip()) for part in text.split(",") if part.strip())
    if not patterns:
        raise InvalidFieldError("domains", "names no domain: write it like '*.example.com,example.org'")
    return tuple(patterns)


def permits(patterns: Iterable[str] | None, domain: str) -> bool:
    """Whether one of the patterns is for this domain; None permits all."""
    return patterns is None or any(
        domain.endswith(pattern[1:]) if pattern.startswith("*.") else domain == pattern for pattern in patterns
    )


def check_order(patterns: Sequence[str] | None, domain_text: str) -> None:
    """Raise `DomainNotPermittedError` unless this domain may be ordered for, and `InvalidFieldError` if it is none."""
    if patterns is None or permits(patterns, domain := parse_domain(domain_text)):
        return
    raise DomainNotPermittedError(
        f"this token may not order for {domain}, only for {', '.join(patterns)}; make one that may with "
        f"`flask tokens create NAME --scope issue --domains {domain}`"
    )


def only(patterns: Sequence[str] | None, column: Any) -> list[ColumnElement[bool]]:
    """The same as conditions of a query on the column that holds the domain."""
    if patterns is None:
        return []
    each = [
        column.endswith(pattern[1:], autoescape=True) if pattern.startswith("*.") else column == pattern
        for pattern in patterns
    ]
    return [or_(false(), *each)]


def _pattern(text: str) -> str:
    try:
        return f"*.{parse_domain(text[2:])}" if text.startswith("*.") else parse_domain(text)
    except InvalidFieldError as error:
        raise InvalidFieldError("domains", error.message) from None
