"""`flask alarms`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.alerts import evaluation
from app.commands.output import as_json_option, current_services, moment, operator, print_rows
from app.errors import CertcourierError

group = AppGroup("alarms", help="What is wrong now, and who is told.")


@group.command("list", epilog="Example: flask alarms list --fail")
@click.option("--fail", is_flag=True, help="Exit with 1 if anything is wrong, for monitoring.")
@as_json_option
def list_alarms(fail: bool, as_json: bool) -> None:
    """List what is wrong now, and what to do."""
    found = evaluation.open_alarms(current_services())
    if as_json:
        rows = [
            {
                "id": alarm.id,
                "kind": alarm.kind,
                "subject": alarm.subject,
                "since": moment(alarm.since),
                "last_told": moment(alarm.last_told),
                "detail": alarm.detail,
                "remedy": alarm.remedy,
            }
            for alarm in found
        ]
        print_rows(rows, as_json=True, empty="")
    else:
        for alarm in found:
            number = alarm.id if alarm.id is not None else "-"
            click.echo(f"{number}  {alarm.kind}  {alarm.subject}  since {moment(alarm.since)}")
            click.echo(f"    {alarm.detail}")
            click.echo(f"    What to do: {alarm.remedy}.")
        if not found:
            click.echo("Nothing is wrong.")
    if fail and found:
        raise SystemExit(1)


@group.command("dismiss", epilog="Example: flask alarms dismiss 17")
@click.argument("alarm_id", type=int)
def dismiss_alarm(alarm_id: int) -> None:
    """Say no more of this problem, as long as it lasts; if it comes back later it is a new one."""
    if not evaluation.dismiss(current_services(), alarm_id, actor=operator()):
        raise click.ClickException(f"no open alarm has the ID {alarm_id}; see `flask alarms list`")
    click.echo(f"Alarm {alarm_id} is dismissed.")


@group.command("test", epilog="Example: flask alarms test")
def send_test() -> None:
    """Send a message to every address of NOTIFY_URLS and NOTIFY_URLS_FILE now; exits with 1 if one fails."""
    notifier = current_services().notifier
    if not notifier.addresses:
        raise click.ClickException("nobody would be told: set NOTIFY_URLS or NOTIFY_URLS_FILE")
    failed = False
    for address in notifier.addresses:
        try:
            notifier.send(address.id, "Certcourier: a test", "Alarms will be told here.", good=True)
            click.echo(f"{address.name}: sent")
        except CertcourierError as error:
            failed = True
            click.echo(f"{address.name}: {error}")
    if failed:
        raise SystemExit(1)
