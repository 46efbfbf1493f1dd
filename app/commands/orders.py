"""`certcourier orders`; `--json` prints the documents of the HTTP API."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.certificates import queries
from app.commands.options import as_json_option, domain_option, limit_option, state_option
from app.commands.output import current_services, print_record, print_rows
from app.db.models import OrderState
from app.web.api import schemas

group = AppGroup("orders", help="Inspect certificate orders.")

_COLUMNS = ("order_id", "order_state", "certificate_id", "common_name", "created_at")


@group.command("list", epilog="Example: certcourier orders list --state failed")
@domain_option
@state_option(*(state.value for state in OrderState))
@limit_option
@as_json_option
def list_orders(domain: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List orders, newest first."""
    page = queries.list_orders(current_services().database, domain=domain, state=state, cursor=None, limit=limit)
    documents = [schemas.order_document(order, None) for order in page.rows]
    rows = documents if as_json else [{name: document[name] for name in _COLUMNS} for document in documents]
    print_rows(rows, as_json=as_json, empty="No matching orders.")


@group.command("show", epilog="Example: certcourier orders show ord_01k...")
@click.argument("order_id")
@as_json_option
def show_order(order_id: str, as_json: bool) -> None:
    """Show one order with its deliveries and timeline."""
    found = queries.find_order(current_services().database, order_id)
    if found is None:
        raise click.ClickException(f"no order has the ID {order_id}; see `certcourier orders list`")
    print_record(schemas.order_detail(*found), as_json=as_json)
