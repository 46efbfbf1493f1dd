"""`certcourier quota`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.commands.options import as_json_option
from app.commands.output import current_services, moment, print_record
from app.db.clock import read_now
from app.dnsimple.quota_state import quota_state

group = AppGroup("quota", help="Inspect DNSimple's API quota.")


@group.command("show", epilog="Example: certcourier quota show --json")
@as_json_option
def show_quota(as_json: bool) -> None:
    """Show how many API calls are left this hour; exits with 1 while calls to DNSimple are paused."""
    services = current_services()
    with services.database.read() as session:
        now = read_now(session)
        state = quota_state(session, account_id=services.account_id, token_digest=services.token_digest, now=now)
    if state is None:
        raise click.ClickException("the quota is not known yet: no call to DNSimple has been made")
    record = {
        "limit": state.limit,
        "remaining": state.remaining,
        "resets_at": moment(state.resets_at),
        "in_flight": state.in_flight,
        "reserved_for_unknown_certificates": state.unknown_left,
        "paused_until": moment(state.paused_until),
        "paused_because": state.paused_because,
    }
    print_record(record, as_json=as_json)
    if state.paused_until:
        raise SystemExit(1)
