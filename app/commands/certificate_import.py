"""`certcourier certificates import`."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

import click
from flask.cli import with_appcontext

from app.certificates.account_import import Progress, import_progress, preview_import, start_import
from app.commands.options import as_json_option
from app.commands.output import counted, current_services, moment, print_rows, progress_bar
from app.db.database import Database
from app.dnsimple.adapter import DNSimple
from app.errors import CertcourierError
from app.operations.health import check_readiness

_POLL_SECONDS = 0.5


@click.command("import", epilog="Example: certcourier certificates import --dry-run")
@click.option("--domain", help="Import only this domain of the account.")
@click.option("--dry-run", is_flag=True, help="Show what would be imported without importing it.")
@as_json_option
@with_appcontext
def import_certificates(domain: str | None, dry_run: bool, as_json: bool) -> None:
    """Import the certificates that the DNSimple account already has.

    For each domain, the newest usable certificate of each set of names is imported. The worker does it, within the
    quota; this command shows progress. It can be interrupted and repeated: nothing is fetched twice.
    """
    services = current_services()
    try:
        if dry_run:
            _preview(services.database, services.dnsimple, domain, as_json=as_json)
            return
        run_id = start_import(services.database, services.queue, domain)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    if check_readiness(services)["worker"] != "ok":
        click.echo("No worker is running. The import starts when one does: run `certcourier worker`.", err=True)
    try:
        progress = _follow(services.database, run_id)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. The worker continues the import; repeat the command to see its progress.", err=True)
        raise SystemExit(130) from None
    if as_json:
        click.echo(json.dumps(asdict(progress), indent=2))
    else:
        click.echo(f"Imported: {counted(progress.fetched, 'certificate')} of {counted(progress.domains, 'domain')}.")
        for name, reason in progress.failed.items():
            click.echo(f"Not imported: {name}: {reason}", err=True)
    if progress.failed:
        raise SystemExit(1)


def _preview(database: Database, dnsimple: DNSimple, domain: str | None, *, as_json: bool) -> None:
    rows = [
        {
            "domain": name,
            "certificate_id": remote.id,
            "common_name": remote.common_name,
            "expires_at": moment(remote.expires_at),
            "auto_renew": remote.auto_renew,
        }
        for name, remote in preview_import(database, dnsimple, domain)
    ]
    print_rows(rows, as_json=as_json, empty="Nothing to import: all usable certificates are already on record.")


def _follow(database: Database, run_id: str) -> Progress:
    pause = threading.Event()
    progress = import_progress(database, run_id)
    with progress_bar(1, "Importing", _describe) as bar:
        while True:
            bar.length = max(1, progress.domains + progress.wanted)
            done = progress.checked + progress.fetched + sum(name.isdigit() for name in progress.failed)
            bar.update(done - bar.pos, progress)
            if progress.is_finished:
                return progress
            pause.wait(_POLL_SECONDS)
            progress = import_progress(database, run_id)


def _describe(progress: Progress | None) -> str | None:
    if progress is None:
        return None
    more = "" if progress.all_listed else "+"
    return (
        f"{progress.checked}/{progress.domains}{more} domains, "
        f"{progress.fetched}/{progress.wanted} certificates, {len(progress.failed)} failed"
    )
