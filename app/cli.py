"""`flask ...`: the worker, and what an operator does by hand (`app.commands`)."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import with_appcontext

from app.certificates.readiness import check_destinations, claim_installation, note_version
from app.commands import (
    alarms,
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
from app.errors import CertcourierError
from app.jobs.worker import Worker

GROUPS = (
    db.group,
    tokens.group,
    keys.group,
    webhooks.group,
    jobs.group,
    audit.group,
    alarms.group,
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
    """Add the commands to `flask`."""
    for command in (*GROUPS, worker, doctor):
        app.cli.add_command(command)


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
    services.share_meters()
    working = Worker(services)
    working.stop_on_signals()
    working.run()
