"""All commands, and the program that runs them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from flask import Flask
from flask.cli import FlaskGroup
from sqlalchemy.exc import DBAPIError

from app import __version__
from app.commands import (
    alerts,
    audit,
    certificates,
    db,
    deliveries,
    destinations,
    events,
    jobs,
    keys,
    orders,
    quota,
    tokens,
    webhooks,
)
from app.commands.doctor import doctor
from app.commands.worker import worker
from app.db.errors import explain_failure
from app.errors import CertcourierError
from app.operations.health import code_version
from config import ConfigurationError

DEMO_SETTINGS = "var/demo.env"  # written by `make run`; see `launcher`

_HELP = """\
Certcourier: certificates for customer domains, ordered through DNSimple and delivered to your servers.

The commands work on the installation that the settings describe: environment variables, `.env`, or the file given
with -e. The web server is not a command: start it with `gunicorn -c gunicorn.conf.py wsgi:app`, or start
everything with `make run`.
"""
_UNUSED_OPTIONS = {"app", "debug"}  # Flask's, of no use with one application and no development server
GROUPS = (
    db.group,
    tokens.group,
    keys.group,
    webhooks.group,
    jobs.group,
    audit.group,
    alerts.group,
    destinations.group,
    deliveries.group,
    orders.group,
    certificates.group,
    events.group,
    quota.group,
)


def register_commands(app: Flask) -> None:
    """Add the commands to the application, so that its `test_cli_runner` finds them."""
    for command in (*GROUPS, worker, doctor, version):
        app.cli.add_command(command)


def _version_text() -> str:
    python = sys.version.partition(" ")[0]
    return f"Certcourier {__version__} (code {code_version()}) on Python {python}"


def _show_version(ctx: click.Context, _option: click.Parameter, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        click.echo(_version_text())
        ctx.exit()


_VERSION_OPTION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)


class CommandLine(FlaskGroup):
    """Certcourier's commands without Flask's own: a development server beside gunicorn would be a second service.

    `create_app` is called when a command runs, so that help needs no settings.
    """

    def __init__(self, create_app: Callable[[], Flask]) -> None:
        super().__init__(
            name="certcourier",
            help=_HELP,
            epilog="`certcourier COMMAND --help` explains a command with an example.",
            add_default_commands=False,
            add_version_option=False,
            set_debug_flag=False,
            params=[_VERSION_OPTION],
            create_app=lambda: _create_or_exit(create_app),
        )
        for position, option in enumerate(self.params):
            if isinstance(option, click.Option) and option.name in _UNUSED_OPTIONS:
                self.params[position] = hidden = copy.copy(option)
                hidden.hidden = True
        for command in (*GROUPS, worker, doctor, version):
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, click's signature
        """Certcourier's commands, without Flask's."""
        return sorted(self.commands)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002, click's signature
        """One of Certcourier's commands, or None."""
        return self.commands.get(name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a database failure is a message instead of a traceback."""
        try:
            return super().invoke(ctx)
        except DBAPIError as error:
            meaning, remedy = explain_failure(error)
        raise click.ClickException(f"{meaning}; {remedy}")


def _create_or_exit(create_app: Callable[[], Flask]) -> Flask:
    try:
        return create_app()
    except (ConfigurationError, CertcourierError) as error:
        _exit_misconfigured(str(error))


def _exit_misconfigured(reason: str) -> NoReturn:
    env_file = click.get_current_context().find_root().get_parameter_source("env_file")
    hint = (
        f"\nThe demo of `make run` has its own settings: certcourier -e {DEMO_SETTINGS} ..."
        if env_file in {None, ParameterSource.DEFAULT} and Path(DEMO_SETTINGS).is_file()
        else ""
    )
    sys.exit(f"Configuration error:\n{reason}{hint}")


@click.command(epilog="Example: certcourier version")
def version() -> None:
    """Show the version and a digest of the source files, which web servers and workers of one version share."""
    click.echo(_version_text())
