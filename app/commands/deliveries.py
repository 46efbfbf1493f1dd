"""`certcourier deliveries`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.commands.options import RECORD_ID, as_json_option, limit_option, state_option
from app.commands.output import counted, current_services, moment, operator, print_rows, progress_bar
from app.db.models import DeliveryState
from app.deliveries import redelivery

group = AppGroup("deliveries", help="List and retry deliveries to destinations.")


@group.command("list", epilog="Example: certcourier deliveries list --state failed")
@state_option(*(state.value for state in DeliveryState))
@click.option("--destination", help="Filter by destination.")
@limit_option
@as_json_option
def list_deliveries(state: str | None, destination: str | None, limit: int, as_json: bool) -> None:
    """List deliveries, newest first."""
    deliveries = redelivery.list_deliveries(
        current_services().database, state=state, destination=destination, limit=limit
    )
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
        for delivery, lineage in deliveries
    ]
    print_rows(rows, as_json=as_json, empty="No matching deliveries.")


@group.command("retry", epilog="Example: certcourier deliveries retry --failed")
@click.argument("delivery_ids", type=RECORD_ID, nargs=-1)
@click.option("--failed", is_flag=True, help="All deliveries that failed permanently.")
@click.option("--destination", help="All unfinished or failed deliveries to this destination.")
def retry_deliveries(delivery_ids: tuple[int, ...], failed: bool, destination: str | None) -> None:
    """Retry pending, failing and failed deliveries now."""
    if not (delivery_ids or failed or destination):
        raise click.UsageError("give delivery IDs, --failed or --destination NAME; see `certcourier deliveries list`")
    services = current_services()
    state = "failed" if failed else None
    count = redelivery.count_unfinished(services.database, ids=delivery_ids, state=state, destination=destination)
    if count == 0:
        raise click.ClickException("no pending, failing or failed delivery matches; see `certcourier deliveries list`")
    retried = 0
    with progress_bar(count, "Retrying") as bar:
        for batch in redelivery.retry(
            services.database, services.queue, actor=operator(), ids=delivery_ids, state=state, destination=destination
        ):
            retried += batch
            bar.update(batch)
    click.echo(f"{counted(retried, 'delivery', 'deliveries')} queued for retry.")
