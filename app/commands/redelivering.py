"""`flask certificates redeliver`."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.commands.output import current_services, operator, progress_bar
from app.deliveries import redelivery
from app.errors import CertcourierError


@click.command("redeliver", epilog="Example: flask certificates redeliver --destination edge --all")
@click.argument("certificate_id", type=int, required=False)
@click.option("--destination", required=True, help="Where they shall go.")
@click.option("--all", "everything", is_flag=True, help="The newest certificate of every lineage.")
@click.option("--lineage", help="The newest certificate of this lineage.")
@click.option("--again", is_flag=True, help="With --all: also those that the destination has been given already.")
@with_appcontext
def redeliver(certificate_id: int | None, destination: str, everything: bool, lineage: str | None, again: bool) -> None:
    """Deliver certificates on record to a destination: after it was added, or after it lost what it had.

    With --all, what has been delivered there is left alone unless --again is given, so a run that was interrupted is
    simply repeated. One certificate (its ID) or one --lineage is delivered again in any case.
    """
    if sum((certificate_id is not None, everything, lineage is not None)) != 1:
        raise click.UsageError("say which: --all, --lineage NAME or a certificate's ID")
    services = current_services()
    request = redelivery.RedeliveryRequest(destination, lineage, certificate_id, again=again or not everything)
    owed = 0
    try:
        with progress_bar(redelivery.count_lineages(services, request), "Enqueueing") as bar:
            for progress in redelivery.redeliver(services, request, actor=operator()):
                owed += progress.owed
                bar.update(progress.checked)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"To be delivered to {destination}: {owed}. See `flask deliveries list --destination {destination}`.")
