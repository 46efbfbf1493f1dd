"""What all commands share: the services, and tables for people or JSON for scripts."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

import click
from flask import current_app

from app.services import Services

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def current_services() -> Services:
    """The services of the application that the command runs in."""
    services: Services = current_app.extensions["certcourier"].services
    return services


def operator() -> str:
    """Who runs this command, for the audit trail: `operator:<user>@<host>`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name; KeyError before Python 3.13
        user = f"uid {os.getuid()}"
    return f"operator:{user}@{socket.gethostname()}"


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    """A table with the fields' names as its head, or a JSON list of objects."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    cells = [
        list(rows[0]),
        *([("-" if value is None else str(value)) for value in row.values()] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
