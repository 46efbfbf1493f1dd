"""Output of the commands: tables on a terminal, JSON for scripts.

Exit status: 0 on success, 1 on failure or when nothing was found, 2 on a usage error.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from flask import current_app
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.db.models.states import Tone, tone_of
from app.services import Services

# Timestamps of API documents and the audit trail, which have more digits than a table needs.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")

_STYLES = {Tone.GOOD: "green", Tone.BAD: "bold red", Tone.BUSY: "yellow", Tone.QUIET: ""}


def current_services() -> Services:
    """The services of the application that the command runs in."""
    services: Services = current_app.extensions["certcourier"].services
    return services


def operator() -> str:
    """The user who runs this command, for the audit trail: `operator:<user>@<host>`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user ID without a name; KeyError before Python 3.13
        user = f"uid {os.getuid()}"
    return f"operator:{user}@{socket.gethostname()}"


def moment(at: datetime | None) -> str | None:
    """A timestamp as all commands write it: UTC in whole seconds, `2026-01-31T23:59:59Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else None


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """`1 job`, `2 jobs`; `plural` where it is irregular."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def progress_bar(length: int, label: str, shown: Callable[[Any], str | None] | None = None) -> Any:
    """A progress bar on standard error if that is a terminal. `shown` describes the current item beside it."""
    hidden = not sys.stderr.isatty()
    return click.progressbar(length=length, label=label, file=sys.stderr, item_show_func=shown, hidden=hidden)


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print a table with the field names as header, or a JSON list of objects.

    On a terminal, long texts are wrapped; otherwise each row is one line with columns aligned by spaces.
    """
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo(empty)
    elif sys.stdout.isatty():
        table = Table(*rows[0], box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(_shown(value), _style(value), overflow="fold") for value in row.values()))
        Console().print(table)  # without colours if NO_COLOR is set
    else:
        _print_aligned([list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)])


def print_record(record: dict[str, Any], *, as_json: bool) -> None:
    """Print one record, a field per line with lists of objects as tables below, or as a JSON object."""
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    tables = {name: value for name, value in record.items() if isinstance(value, list) and _holds_objects(value)}
    fields = {name: value for name, value in record.items() if name not in tables and value != []}
    if sys.stdout.isatty():
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, value in fields.items():
            table.add_row(Text(name, "bold"), Text(_shown(value), _style(value), overflow="fold"))
        Console().print(table)
    else:
        _print_aligned([[name, _shown(value)] for name, value in fields.items()])
    for name, rows in tables.items():
        click.echo(f"\n{name}")
        print_rows(rows, as_json=False, empty="")


def _print_aligned(cells: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _shown(value: object) -> str:
    """The value as text without control characters: some of it comes from untrusted senders."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_shown(item)}" for name, item in value.items())
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        return moment(datetime.fromisoformat(value)) or ""
    return "".join(character if character.isprintable() else " " for character in str(value))


def _style(value: object) -> str:
    return _STYLES[tone_of(value)] if isinstance(value, str) else ""


def _holds_objects(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict)
