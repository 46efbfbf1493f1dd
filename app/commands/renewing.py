"""`flask certificates renew`."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.commands.output import current_services, operator
from app.errors import CertcourierError
from app.renewals.renewal import renew_now


@click.command("renew", epilog="Example: flask certificates renew 101967")
@click.argument("certificate_ids", metavar="ID...", type=click.IntRange(1), nargs=-1, required=True)
@with_appcontext
def renew(certificate_ids: tuple[int, ...]) -> None:
    """Order renewals now, whatever RENEWAL_POLICY says: DNSimple sells a new certificate of the same names. Jobs do it.

    All of them are ordered, or none if one of them cannot be renewed.
    """
    services, ordered = current_services(), dict[int, str | None]()
    try:
        with services.database.write() as session:
            for number in certificate_ids:
                ordered[number] = renew_now(services, session, number, actor=operator(), requested_by=operator())
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    for number, order_id in ordered.items():
        said = f"is ordered: `flask orders show {order_id}`" if order_id else "is on its way already"
        click.echo(f"The renewal of certificate {number} {said}.")
