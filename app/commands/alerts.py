"""`certcourier alerts`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.alerts import evaluation
from app.commands.options import RECORD_ID, as_json_option
from app.commands.output import current_services, moment, operator, print_rows
from app.errors import CertcourierError

group = AppGroup("alerts", help="List, silence and test alerts.")


@group.command("list", epilog="Example: certcourier alerts list --fail")
@click.option("--fail", is_flag=True, help="Exit with 1 if there are open alerts, for monitoring.")
@as_json_option
def list_alerts(fail: bool, as_json: bool) -> None:
    """List open alerts and their remedies."""
    alerts = evaluation.active_alerts(current_services())
    if as_json:
        rows = [
            {
                "id": alert.id,
                "kind": alert.kind,
                "severity": alert.severity,
                "subject": alert.subject,
                "since": moment(alert.since),
                "last_notified_at": moment(alert.last_notified_at),
                "detail": alert.detail,
                "remedy": alert.remedy,
            }
            for alert in alerts
        ]
        print_rows(rows, as_json=True, empty="")
    else:
        for alert in alerts:
            alert_id = alert.id if alert.id is not None else "-"
            click.echo(f"{alert_id}  {alert.severity}  {alert.kind}  {alert.subject}  since {moment(alert.since)}")
            click.echo(f"    {alert.detail}")
            click.echo(f"    Remedy: {alert.remedy}.")
        if not alerts:
            click.echo("No open alerts.")
    if fail and alerts:
        raise SystemExit(1)


@group.command("silence", epilog="Example: certcourier alerts silence 17")
@click.argument("alert_id", type=RECORD_ID)
def silence_alert(alert_id: int) -> None:
    """Silence this alert until it resolves. If the condition returns later, that is a new alert."""
    if not evaluation.silence(current_services().database, alert_id, actor=operator()):
        raise click.ClickException(f"no open alert has the ID {alert_id}; see `certcourier alerts list`")
    click.echo(f"Alert {alert_id} is silenced until it resolves.")


@group.command("test", epilog="Example: certcourier alerts test")
def send_test() -> None:
    """Send a test message to every address in NOTIFY_URLS and NOTIFY_URLS_FILE; exits with 1 if one fails."""
    notifier = current_services().notifier
    if not notifier.addresses:
        raise click.ClickException("no recipients are configured: set NOTIFY_URLS or NOTIFY_URLS_FILE")
    failed = False
    for address in notifier.addresses:
        try:
            notifier.send(address.id, "Certcourier: test message", "Test message: alerts will be sent here.", good=True)
            click.echo(f"{address.name}: sent")
        except CertcourierError as error:
            failed = True
            click.echo(f"{address.name}: {error}")
    if failed:
        raise SystemExit(1)
