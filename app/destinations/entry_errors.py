"""Validation errors of the destinations file's tables, in words for an operator."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from config import plain_message


def explain_entry(error: ValidationError, fields: Iterable[str]) -> str:
    """Each invalid field with its error; for an unknown one, the closest of `fields`. Repeats no value."""
    known, messages = list(fields), []
    for problem in error.errors(include_input=False, include_context=False, include_url=False):
        name = ".".join(map(str, problem["loc"]))
        message = plain_message(problem)
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(name, known, n=1)
            message = f"unknown field; did you mean {near[0]!r}?" if near else "unknown field"
        messages.append(f"{name}: {message}" if name else message)
    return "; ".join(messages)
