"""`flask ...`: the worker, and what an operator does by hand (`app.commands`)."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import with_appcontext

from app.certificates.readiness import check_destinations, claim_installation
from app.commands import certificates, db, jobs, tokens, webhooks
from app.commands.output import current_services
from app.errors import CertcourierError
from app.jobs.worker import Worker

GROUPS = (db.group, tokens.group, webhooks.group, jobs.group, certificates.group)


def register_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    for command in (*GROUPS, worker):
        app.cli.add_command(command)


@click.command()
@with_appcontext
def worker() -> None:
    """Work on orders, events, certificates and deliveries until SIGTERM; run one or more beside the web server."""
    services = current_services()
    try:
        claim_installation(services)
        check_destinations(services)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    working = Worker(services)
    working.stop_on_signals()
    working.run()
