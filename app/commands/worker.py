"""`certcourier worker`."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.commands.output import current_services
from app.errors import CertcourierError
from app.operations.health import check_destinations, claim_installation, note_version
from app.worker.worker import Worker


@click.command(epilog="Example: certcourier worker")
@with_appcontext
def worker() -> None:
    """Process orders, events, certificates and deliveries until SIGTERM. Run one or more beside the web server."""
    services = current_services()
    try:
        claim_installation(services)
        check_destinations(services.destinations, services.time_limits)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    note_version(services.database, "worker")
    services.share_metrics()
    running = Worker(services)
    running.stop_on_signals()
    running.run()
