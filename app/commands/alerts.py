"""`flask alerts`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.alerts import evaluation
from app.commands.output import as_json_option, current_services, moment, operator, print_rows
from app.errors import CertcourierError

group = AppGroup("alerts", help="What is wrong now, and who is told.")


@group.command("list", epilog="Example: flask alerts list --fail")
@click.option("--fail", is_flag=True, help="Exit with 1 if anything is wrong, for monitoring.")
@as_json_option
def list_alerts(fail: bool, as_json: bool) -> None:
    """List what is wrong now, and what to do."""
    found = evaluation.open_alerts(current_services())
    if as_json:
        rows = [
            {
                "id": alert.id,
                "kind": alert.kind,
                "subject": alert.subject,
                "since": moment(alert.since),
                "last_notified_at": moment(alert.last_notified_at),
                "detail": alert.detail,
                "remedy": alert.remedy,
            }
            for alert in found
        ]
        print_rows(rows, as_json=True, empty="")
    else:
        for alert in found:
            number = alert.id if alert.id is not None else "-"
            click.echo(f"{number}  {alert.kind}  {alert.subject}  since {moment(alert.since)}")
            click.echo(f"    {alert.detail}")
            click.echo(f"    What to do: {alert.remedy}.")
        if not found:
            click.echo("Nothing is wrong.")
    if fail and found:
        raise SystemExit(1)


@group.command("silence", epilog="Example: flask alerts silence 17")
@click.argument("alert_id", type=int)
def silence_alert(alert_id: int) -> None:
    """Say no more of this problem, as long as it lasts; if it comes back later it is a new one."""
    if not evaluation.silence(current_services(), alert_id, actor=operator()):
        raise click.ClickException(f"no open alert has the ID {alert_id}; see `flask alerts list`")
    click.echo(f"Alert {alert_id} is dismissed.")


@group.command("test", epilog="Example: flask alerts test")
def send_test() -> None:
    """Send a message to every address of NOTIFY_URLS and NOTIFY_URLS_FILE now; exits with 1 if one fails."""
    notifier = current_services().notifier
    if not notifier.addresses:
        raise click.ClickException("nobody would be told: set NOTIFY_URLS or NOTIFY_URLS_FILE")
    failed = False
    for address in notifier.addresses:
        try:
            notifier.send(address.id, "Certcourier: a test", "Alerts will be told here.", good=True)
            click.echo(f"{address.name}: sent")
        except CertcourierError as error:
            failed = True
            click.echo(f"{address.name}: {error}")
    if failed:
        raise SystemExit(1)
