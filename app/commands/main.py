"""`flask ...`: the worker, and what an operator does by hand (`app.commands`)."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from flask import Flask
from flask.cli import FlaskGroup, with_appcontext
from sqlalchemy.exc import DBAPIError

from app.commands import (
    alerts,
    audit,
    certificates,
    db,
    deliveries,
    destinations,
    importing,
    jobs,
    keys,
    reading,
    redelivering,
    refetching,
    renewing,
    tokens,
    webhooks,
)
from app.commands.doctor import doctor
from app.commands.output import current_services
from app.db.errors import explain_failure
from app.errors import CertcourierError
from app.operations.health import check_destinations, claim_installation, code_version, note_version
from app.worker.worker import Worker
from config import ConfigurationError

DEMO_SETTINGS = "var/demo.env"  # where `make run` leaves them; see `launcher`

_HELP = """\
Certcourier: certificates for customer domains, ordered through DNSimple and delivered to where they are served.

These commands work on the installation that the settings name: environment variables, `.env`, or the file of -e.
The web server is no command: `gunicorn -c gunicorn.conf.py wsgi:app` starts it, and `make run` starts everything.
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
    reading.orders,
    certificates.group,
    reading.events,
    reading.quota,
)
for command in (renewing.renew, refetching.refetch, redelivering.redeliver, importing.import_certificates):
    certificates.group.add_command(command)


def register_commands(app: Flask) -> None:
    """Add the commands to the application, whose `test_cli_runner` runs them in tests."""
    for command in (*GROUPS, worker, doctor, version):
        app.cli.add_command(command)


class CommandLine(FlaskGroup):
    """Our commands without Flask's own: a development server beside gunicorn would be a second service.

    The application is made by `create_app` when a command begins its work, so that help needs no settings.
    """

    def __init__(self, create_app: Callable[[], Flask]) -> None:
        super().__init__(
            name="flask",
            help=_HELP,
            epilog="`flask COMMAND --help` explains a command with an example.",
            add_default_commands=False,
            add_version_option=False,
            set_debug_flag=False,
            create_app=lambda: _created(create_app),
        )
        for position, option in enumerate(self.params):
            if isinstance(option, click.Option) and option.name in _UNUSED_OPTIONS:
                self.params[position] = hidden = copy.copy(option)
                hidden.hidden = True
        for command in (*GROUPS, worker, doctor, version):
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, click asks so
        """Ours."""
        return sorted(self.commands)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002, click asks so
        """One of ours, or None."""
        return self.commands.get(name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a database that fails is a message and not a traceback."""
        try:
            return super().invoke(ctx)
        except DBAPIError as error:
            meaning, remedy = explain_failure(error)
        raise click.ClickException(f"{meaning}; {remedy}")


def _created(create_app: Callable[[], Flask]) -> Flask:
    try:
        return create_app()
    except (ConfigurationError, CertcourierError) as error:
        _refuse(str(error))


def _refuse(why: str) -> NoReturn:
    given = click.get_current_context().find_root().get_parameter_source("env_file")
    hint = (
        f"\nThe demo of `make run` has its own settings: flask -e {DEMO_SETTINGS} ..."
        if given in {None, ParameterSource.DEFAULT} and Path(DEMO_SETTINGS).is_file()
        else ""
    )
    sys.exit(f"Certcourier cannot start:\n{why}{hint}")


@click.command(epilog="Example: flask version")
def version() -> None:
    """Show which code this is: a digest of its files, which web servers and workers of one version share."""
    click.echo(f"Certcourier, code {code_version()}, on Python {sys.version.partition(' ')[0]}")


@click.command(epilog="Example: flask worker")
@with_appcontext
def worker() -> None:
    """Work on orders, events, certificates and deliveries until SIGTERM; run one or more beside the web server."""
    services = current_services()
    try:
        claim_installation(services)
        check_destinations(services)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    note_version(services, "worker")
    services.share_metrics()
    working = Worker(services)
    working.stop_on_signals()
    working.run()
