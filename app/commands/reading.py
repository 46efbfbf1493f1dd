"""What is on record, to look at: `flask orders`, `events`, `quota`, and of `flask certificates` its `list` and `show`.

`--json` prints the documents of the HTTP interface.
"""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from app.certificates import queries
from app.certificates.states import CERTIFICATE_STATES, ORDER_STATES
from app.commands import certificates
from app.commands.output import as_json_option, current_services, moment, print_record, print_rows
from app.db.clock import read_now
from app.domain_names import InvalidFieldError, parse_domain
from app.web.api import schemas
from app.web.dashboard.overview import quota_state

orders = AppGroup("orders", help="Orders and what became of them.")
events = AppGroup("events", help="Events that DNSimple has sent.")
quota = AppGroup("quota", help="DNSimple's calls that are left.")

_PEM_FIELDS = ("certificate_pem", "chain_pem")


class DomainName(click.ParamType[str]):
    """A domain, in Unicode or A-labels."""

    name = "domain"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """In A-labels."""
        try:
            return parse_domain(value)
        except InvalidFieldError as error:
            self.fail(error.message, param, ctx)


_domain_option = click.option("--domain", type=DomainName(), help="Only this domain's.")
_limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most.")


@orders.command("list", epilog="Example: flask orders list --state failed")
@_domain_option
@click.option("--state", type=click.Choice([state.value for state in ORDER_STATES]), help="Only those in this state.")
@_limit_option
@as_json_option
def list_orders(domain: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the newest orders."""
    page = queries.list_orders(current_services(), domain=domain, state=state, after=None, limit=limit)
    documents = [schemas.order_document(order, None) for order in page.rows]
    columns = ("order_id", "order_state", "certificate_id", "common_name", "created_at")
    shown = documents if as_json else [_columns(document, columns) for document in documents]
    print_rows(shown, as_json=as_json, empty="No such orders.")


@orders.command("show", epilog="Example: flask orders show ord_01k...")
@click.argument("order_id")
@as_json_option
def show_order(order_id: str, as_json: bool) -> None:
    """Show one order with its deliveries and its story."""
    found = queries.find_order(current_services(), order_id)
    if found is None:
        raise click.ClickException(f"no order has the ID {order_id}; see `flask orders list`")
    print_record(schemas.order_detail(*found), as_json=as_json)


@certificates.group.command("list", epilog="Example: flask certificates list --expires-within 14")
@_domain_option
@click.option("--state", help="Only those in this state, in DNSimple's words: " + ", ".join(CERTIFICATE_STATES) + ".")
@click.option(
    "--expires-within",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Only the newest ones of their lineages that expire within so many days, or did so in the last seven; "
    "the soonest first.",
)
@_limit_option
@as_json_option
def list_certificates(
    domain: str | None, state: str | None, expires_within: float | None, limit: int, as_json: bool
) -> None:
    """List the newest certificates."""
    services = current_services()
    if expires_within is not None:
        if domain or state:
            raise click.UsageError("--expires-within goes without --domain and --state")
        rows = queries.list_expiring(services, days=expires_within, limit=limit)
    else:
        try:
            rows = queries.list_certificates(services, domain=domain, state=state, after=None, limit=limit).rows
        except InvalidFieldError as error:
            raise click.BadParameter(error.message, param_hint="--state") from None
    documents = [schemas.certificate_document(row) for row in rows]
    columns = ("certificate_id", "common_name", "state", "auto_renew", "not_after")
    shown = documents if as_json else [_columns(one, columns) | _deliveries(one) for one in documents]
    print_rows(shown, as_json=as_json, empty="No such certificates.")


@certificates.group.command("show", epilog="Example: flask certificates show 101967")
@click.argument("certificate_id", type=click.IntRange(1, 2**63 - 1))
@as_json_option
def show_certificate(certificate_id: int, as_json: bool) -> None:
    """Show one certificate with its deliveries and its story; with --json also its PEM texts. Never its key."""
    found = queries.find_certificate(current_services(), certificate_id)
    if found is None:
        raise click.ClickException(f"no certificate has the ID {certificate_id}; see `flask certificates list`")
    document = schemas.certificate_detail(*found)
    if not as_json:
        document = {name: value for name, value in document.items() if name not in _PEM_FIELDS}
    print_record(document, as_json=as_json)


@events.command("list", epilog="Example: flask events list --certificate 101967")
@click.option("--certificate", "certificate_id", type=click.IntRange(1, 2**63 - 1), help="Only of this certificate.")
@_limit_option
@as_json_option
def list_events(certificate_id: int | None, limit: int, as_json: bool) -> None:
    """List the newest events."""
    rows = [
        {
            "received_at": moment(event.received_at),
            "name": event.name,
            "outcome": event.outcome,
            "certificate_id": event.certificate_id,
            "event_id": event.request_identifier,
        }
        for event in queries.list_events(current_services(), certificate_id=certificate_id, limit=limit)
    ]
    print_rows(rows, as_json=as_json, empty="No such events.")


@quota.command("show", epilog="Example: flask quota show --json")
@as_json_option
def show_quota(as_json: bool) -> None:
    """Show how many calls to DNSimple are left; exits with 1 when all calls are stopped."""
    services = current_services()
    with services.database.read() as session:
        state = quota_state(services, session, read_now(session))
    if state is None:
        raise click.ClickException("nothing is known yet: no call has been made")
    stopped = state.stopped_until
    record = {
        "limit": state.limit,
        "remaining": state.remaining,
        "resets_at": moment(state.resets_at),
        "in_flight": state.in_flight,
        "left_for_unknown_certificates": state.unknown_left,
        "stopped_until": moment(stopped),
        "stopped_because": state.stopped_because,
    }
    print_record(record, as_json=as_json)
    if stopped:
        raise SystemExit(1)


def _columns(document: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: document[name] for name in names}


def _deliveries(document: dict[str, Any]) -> dict[str, Any]:
    return {"deliveries": [f"{one['destination']} {one['state']}" for one in document["deliveries"]]}
