"""What a token may do: its scopes, and the domains that it is restricted to. API and dashboard both decide here.

A domain pattern is a domain of the account with all names inside it (`example.org`), or every domain below one, at any
depth and without that one itself (`*.example.com`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, false, or_

from app.domain_names import InvalidFieldError, parse_domain
from app.errors import PermanentError

SCOPES = ("issue", "read", "admin")


class AccessDeniedError(PermanentError):
    """A valid token that may not do this; `kind` is the problem type, the message its detail."""

    def __init__(self, kind: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.title = title


class DomainNotPermittedError(PermanentError):
    """An order for a domain outside the token's domains; `field` is the request's."""

    field = "domain"


def grants(scopes: Iterable[str], required: str) -> bool:
    """Whether these scopes include the required one; `admin` includes all."""
    return not {required, "admin"}.isdisjoint(scopes)


def check_access(
    scopes: Iterable[str], patterns: Sequence[str] | None, required: str, *, supports_domains: bool
) -> None:
    """Raise `AccessDeniedError` unless a token with these scopes and domain patterns may use an endpoint or page.

    `supports_domains`: the endpoint shows a domain-restricted token only what belongs to its domains.
    """
    if not grants(scopes, required):
        raise AccessDeniedError(
            "insufficient-scope",
            "The token lacks the required scope",
            f"this token lacks the `{required}` scope; create one: `certcourier tokens create NAME --scope {required}`",
        )
    if patterns is not None and not supports_domains:
        raise AccessDeniedError(
            "domain-restricted-token",
            "Not available to domain-restricted tokens",
            "this token is restricted to certain domains; create one without `--domains`",
        )


def parse_patterns(text: str) -> tuple[str, ...]:
    """Patterns from a comma-separated text, as lower-case A-labels. Raises `InvalidFieldError`."""
    patterns = dict.fromkeys(_pattern(part.strip()) for part in text.split(",") if part.strip())
    if not patterns:
        raise InvalidFieldError("domains", "must name at least one domain, for example '*.example.com,example.org'")
    return tuple(patterns)


def permits(patterns: Iterable[str] | None, domain: str) -> bool:
    """Whether one of the patterns matches the domain; None permits all domains."""
    return patterns is None or any(
        domain.endswith(pattern[1:]) if pattern.startswith("*.") else domain == pattern for pattern in patterns
    )


def check_order(patterns: Sequence[str] | None, domain_text: str) -> None:
    """Raise `DomainNotPermittedError` for a domain outside the patterns, `InvalidFieldError` for an invalid one."""
    if patterns is None or permits(patterns, domain := parse_domain(domain_text)):
        return
    raise DomainNotPermittedError(
        f"this token may order only for {', '.join(patterns)}, not for {domain}; create one that may with "
        f"`certcourier tokens create NAME --scope issue --domains {domain}`"
    )


def only(patterns: Sequence[str] | None, column: Any) -> list[ColumnElement[bool]]:
    """The patterns as conditions of a query, on the column that holds the domain."""
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
