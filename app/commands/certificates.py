"""`certcourier certificates`: list, show, renew, redeliver, refetch (`import` is in `certificate_import`)."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import batched

import click
from flask.cli import AppGroup

from app.certificates import queries
from app.commands.certificate_import import import_certificates
from app.commands.options import RECORD_ID, as_json_option, domain_option, limit_option
from app.commands.output import counted, current_services, operator, print_record, print_rows, progress_bar
from app.db.models.states import CERTIFICATE_STATES
from app.deliveries import redelivery
from app.domain_names import InvalidFieldError
from app.errors import CertcourierError
from app.operations import key_refetch
from app.renewals.renewal import renew_now
from app.web.api import schemas

group = AppGroup("certificates", help="Inspect, renew, redeliver and import certificates.")
group.add_command(import_certificates)

_BATCH = 100
_COLUMNS = ("certificate_id", "common_name", "state", "auto_renew", "not_after")
_PEM_FIELDS = ("certificate_pem", "chain_pem")


@group.command("list", epilog="Example: certcourier certificates list --expires-within 14")
@domain_option
@click.option("--state", help=f"Filter by state, as DNSimple names it: {', '.join(CERTIFICATE_STATES)}.")
@click.option(
    "--expires-within",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Only the newest certificate of each lineage that expires within this many days or expired in the last "
    "seven; soonest first.",
)
@limit_option
@as_json_option
def list_certificates(
    domain: str | None, state: str | None, expires_within: float | None, limit: int, as_json: bool
) -> None:
    """List certificates, newest first."""
    services = current_services()
    if expires_within is not None:
        if domain or state:
            raise click.UsageError("--expires-within cannot be combined with --domain or --state")
        certificates = queries.list_expiring(services.database, within=timedelta(days=expires_within), limit=limit)
    else:
        try:
            page = queries.list_certificates(services.database, domain=domain, state=state, cursor=None, limit=limit)
        except InvalidFieldError as error:
            raise click.BadParameter(error.message, param_hint="--state") from None
        certificates = page.rows
    rows = [schemas.certificate_document(certificate) for certificate in certificates]
    if not as_json:
        rows = [
            {name: document[name] for name in _COLUMNS}
            | {"deliveries": [f"{delivery['destination']} {delivery['state']}" for delivery in document["deliveries"]]}
            for document in rows
        ]
    print_rows(rows, as_json=as_json, empty="No matching certificates.")


@group.command("show", epilog="Example: certcourier certificates show 101967")
@click.argument("certificate_id", type=RECORD_ID)
@as_json_option
def show_certificate(certificate_id: int, as_json: bool) -> None:
    """Show one certificate with its deliveries and timeline.

    With --json, the PEM-encoded certificate and chain are included. The private key is never shown.
    """
    found = queries.find_certificate(current_services().database, certificate_id)
    if found is None:
        raise click.ClickException(f"no certificate has the ID {certificate_id}; see `certcourier certificates list`")
    document = schemas.certificate_detail(*found)
    if not as_json:
        document = {name: value for name, value in document.items() if name not in _PEM_FIELDS}
    print_record(document, as_json=as_json)


@group.command("renew", epilog="Example: certcourier certificates renew 101967")
@click.argument("certificate_ids", metavar="ID...", type=RECORD_ID, nargs=-1, required=True)
def renew(certificate_ids: tuple[int, ...]) -> None:
    """Order renewals now, whatever RENEWAL_POLICY is: a new certificate with the same names is purchased from DNSimple.

    Either all renewals are ordered, or none if one of the certificates cannot be renewed. The worker processes them.
    """
    services, order_ids = current_services(), dict[int, str | None]()
    try:
        with services.database.write() as session:
            for certificate_id in certificate_ids:
                order_ids[certificate_id] = renew_now(
                    services.queue,
                    services.account_id,
                    session,
                    certificate_id,
                    actor=operator(),
                    requested_by=operator(),
                )
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    for certificate_id, order_id in order_ids.items():
        result = f"ordered (`certcourier orders show {order_id}`)" if order_id else "already in progress"
        click.echo(f"Renewal of certificate {certificate_id}: {result}.")


@group.command("redeliver", epilog="Example: certcourier certificates redeliver --destination edge --all")
@click.argument("certificate_id", type=RECORD_ID, required=False)
@click.option("--destination", required=True, help="Target destination.")
@click.option("--all", "everything", is_flag=True, help="The newest certificate of every lineage.")
@click.option("--lineage", help="The newest certificate of this lineage.")
@click.option("--again", is_flag=True, help="With --all: include certificates that were already delivered there.")
def redeliver(certificate_id: int | None, destination: str, everything: bool, lineage: str | None, again: bool) -> None:
    """Deliver certificates to a destination that was added, or that has lost its certificates.

    With --all, certificates that were already delivered there are skipped unless --again is given, so an interrupted
    run can simply be repeated. A single certificate (by ID) or --lineage is always delivered again.
    """
    if sum((certificate_id is not None, everything, lineage is not None)) != 1:
        raise click.UsageError("give exactly one of --all, --lineage NAME or a certificate ID")
    services = current_services()
    request = redelivery.RedeliveryRequest(destination, lineage, certificate_id, again=again or not everything)
    queued = 0
    try:
        with progress_bar(
            redelivery.count_lineages(services.database, services.destinations, request), "Queueing"
        ) as bar:
            for progress in redelivery.redeliver(
                services.database, services.queue, services.destinations, request, actor=operator()
            ):
                queued += progress.queued
                bar.update(progress.checked)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{counted(queued, 'delivery', 'deliveries')} queued for {destination}. "
        f"See `certcourier deliveries list --destination {destination}`."
    )


@group.command("refetch", epilog="Example: certcourier certificates refetch --all-unreadable")
@click.argument("certificate_ids", metavar="[ID]...", type=RECORD_ID, nargs=-1)
@click.option("--all-unreadable", is_flag=True, help="All certificates whose stored private key cannot be decrypted.")
@click.option("--wait/--no-wait", default=True, help="Show progress until all keys are fetched. Safe to interrupt.")
def refetch(certificate_ids: tuple[int, ...], all_unreadable: bool, wait: bool) -> None:
    """Fetch private keys from DNSimple again, one API call per key. The worker does it, within the quota."""
    if bool(certificate_ids) == all_unreadable:
        raise click.UsageError("give either certificate IDs or --all-unreadable")
    services = current_services()
    undecryptable = services.private_keys.undecryptable_ids(services.database)
    chosen = list(undecryptable if all_unreadable else certificate_ids)
    added = 0
    for batch in batched(chosen, _BATCH):
        with services.database.write() as session:
            added += key_refetch.enqueue_key_refetch(services.queue, session, batch, actor=operator())
    click.echo(f"{counted(len(chosen), 'private key')} to fetch; {counted(added, 'job')} queued.")
    if not wait:
        return
    remaining = key_refetch.count_unfinished(services.database)
    with progress_bar(remaining, "Fetching") as bar:
        while remaining:
            time.sleep(0.2)
            now = key_refetch.count_unfinished(services.database)
            bar.update(max(0, remaining - now))
            remaining = now
    click.echo("Done. Failed jobs: `certcourier jobs list --state dead`.")
