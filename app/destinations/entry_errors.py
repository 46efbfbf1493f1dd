"""What is wrong in a table of the destinations file, in words for an operator."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from config import plain_message


def explain_entry(error: ValidationError, fields: Iterable[str]) -> str:
    """Each field with what is wrong; for an unknown one the nearest of the known `fields`. Repeats no value."""
    known, told = list(fields), []
    for problem in error.errors(include_input=False, include_context=False, include_url=False):
        name = ".".join(map(str, problem["loc"]))
        message = plain_message(problem)
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(name, known, n=1)
            message = f"is no field here; is it {near[0]!r}?" if near else "is no field here"
        told.append(f"{name}: {message}" if name else message)
    return "; ".join(told)
