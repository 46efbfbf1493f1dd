"""`flask certificates refetch`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import batched

import click
from flask.cli import with_appcontext

from app.commands.output import counted, current_services, operator, progress_bar
from app.operations import key_refetch, key_rotation
from app.services import Services

_BATCH = 100


@click.command("refetch", epilog="Example: flask certificates refetch --all-unreadable")
@click.argument("certificate_ids", metavar="[ID]...", type=click.IntRange(1), nargs=-1)
@click.option("--all-unreadable", is_flag=True, help="All whose private key is on record and cannot be opened.")
@click.option("--wait/--no-wait", default=True, help="Show progress until the workers are done; it can be interrupted.")
@with_appcontext
def refetch(certificate_ids: tuple[int, ...], all_unreadable: bool, wait: bool) -> None:
    """Fetch private keys from DNSimple again, a call each, as the quota allows; jobs do it."""
    if bool(certificate_ids) == all_unreadable:
        raise click.UsageError("say either which certificates by ID, or --all-unreadable")
    services = current_services()
    wanted = list(key_rotation.undecryptable(services)) if all_unreadable else list(certificate_ids)
    added = _enqueue(services, wanted)
    click.echo(f"{counted(len(wanted), 'private key')} to fetch; {counted(added, 'job is', 'jobs are')} new.")
    if wait:
        _show_progress(services)


def _enqueue(services: Services, wanted: Iterable[int]) -> int:
    added = 0
    for some in batched(wanted, _BATCH):
        with services.database.write() as session:
            added += key_refetch.enqueue_key_refetch(services, session, some, actor=operator())
    return added


def _show_progress(services: Services) -> None:
    left = key_refetch.unfinished(services)
    with progress_bar(left, "Fetching") as bar:
        while left:
            time.sleep(0.2)
            now = key_refetch.unfinished(services)
            bar.update(max(0, left - now))
            left = now
    click.echo("Done. What was given up is in `flask jobs list --state dead`.")
