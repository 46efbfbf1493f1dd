"""`flask deliveries`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.commands.output import as_json_option, current_services, moment, operator, print_rows, progress_bar
from app.db.models import DeliveryState
from app.deliveries import redelivery

group = AppGroup("deliveries", help="Certificates on their way to destinations.")


@group.command("list", epilog="Example: flask deliveries list --state failed")
@click.option("--state", type=click.Choice([str(state) for state in DeliveryState]), help="Only those in this state.")
@click.option("--destination", help="Only those to this destination.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
def list_deliveries(state: str | None, destination: str | None, limit: int, as_json: bool) -> None:
    """List the newest deliveries."""
    found = redelivery.list_deliveries(current_services(), state=state, destination=destination, limit=limit)
    rows = [
        {
            "id": delivery.id,
            "certificate_id": delivery.certificate_id,
            "lineage": lineage,
            "destination": delivery.destination,
            "state": delivery.state,
            "delivered_at": moment(delivery.delivered_at),
            "detail": delivery.blocked_by or delivery.detail,
        }
        for delivery, lineage in found
    ]
    print_rows(rows, as_json=as_json, empty="No such deliveries.")


@group.command("retry", epilog="Example: flask deliveries retry --failed")
@click.argument("delivery_ids", type=int, nargs=-1)
@click.option("--failed", is_flag=True, help="All that were given up.")
@click.option("--destination", help="All to this destination that were given up or wait for their next attempt.")
def retry_deliveries(delivery_ids: tuple[int, ...], failed: bool, destination: str | None) -> None:
    """Let deliveries begin at once that were given up or wait for their next attempt."""
    if not (delivery_ids or failed or destination):
        raise click.UsageError("say which: their IDs, --failed or --destination NAME; see `flask deliveries list`")
    services = current_services()
    state = "failed" if failed else None
    count = redelivery.count_unfinished(services, ids=delivery_ids, state=state, destination=destination)
    if count == 0:
        raise click.ClickException("no such delivery is unfinished; see `flask deliveries list`")
    begun = 0
    with progress_bar(count, "Retrying") as bar:
        for some in redelivery.retry(
            services, actor=operator(), ids=delivery_ids, state=state, destination=destination
        ):
            begun += some
            bar.update(some)
    click.echo(f"Begun again: {begun}.")
