"""Markdown for reference pages."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MADE = "<!-- Made by `make reference` from the code: change it there. -->"


class UndocumentedError(Exception):
    """The code says nothing of it; the message names what has to be described."""


def page(title: str, *parts: str) -> str:
    """A whole page."""
    return "\n\n".join([f"# {title}", _MADE, *parts]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; cells are Markdown in which `|` needs no care."""
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def code(value: object) -> str:
    """Text in the code's letters; nothing for nothing."""
    return "" if value in {None, ""} else f"`{value}`"


def described(text: str | None, what: str) -> str:
    """`text`, on one line. Raises `UndocumentedError` when there is none."""
    if not text or not text.strip():
        raise UndocumentedError(f"{what} has no description")
    return " ".join(text.split())


def summary(thing: object, what: str) -> str:
    """The first paragraph of a docstring."""
    return described((inspect.getdoc(thing) or "").partition("\n\n")[0], what)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
