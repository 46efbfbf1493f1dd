"""`certcourier doctor`."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from typing import Any

import click
from flask.cli import with_appcontext

from app.commands.options import DomainName, as_json_option
from app.commands.output import current_services, print_rows
from app.doctor.checks import CHECKS, OF_A_DOMAIN
from app.doctor.findings import CheckContext, run_checks


class NameServer(click.ParamType[tuple[str, int]]):
    """An IP address with an optional port."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """The address and the port (default 53)."""
        if isinstance(value, tuple):
            return value
        text = str(value)
        address, port = text, "53"
        if text.startswith("["):
            address, _, port = text[1:].partition("]")
            port = port.removeprefix(":") or "53"
        elif text.count(":") == 1:
            address, _, port = text.partition(":")
        try:
            ip_address(address)
        except ValueError:
            self.fail("must be an IP address, or ADDRESS:PORT, or [IPv6]:PORT", param, ctx)
        if not port.isdigit() or not 0 < int(port) < 65536:
            self.fail("the port must be from 1 to 65535", param, ctx)
        return address, int(port)


@click.command("doctor", epilog="Example: certcourier doctor --domain customer.example")
@click.option("--domain", type=DomainName(), help="Also check this domain's zone, delegation, CAA and DNSSEC.")
@click.option("--resolver", type=NameServer(), help="Resolver to use instead of the system's: ADDRESS[:PORT].")
@click.option("--only", multiple=True, type=click.Choice([*CHECKS, *OF_A_DOMAIN]), help="Run only this check.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=20.0, show_default=True, help="Time limit per check."
)
@as_json_option
@with_appcontext
def doctor(
    domain: str | None, resolver: tuple[str, int] | None, only: tuple[str, ...], seconds: float, as_json: bool
) -> None:
    """Diagnose the installation and suggest remedies; exits with 1 if a finding is critical.

    Read-only. Makes about six calls to DNSimple.
    """
    if domain is None and set(only) & set(OF_A_DOMAIN):
        raise click.UsageError(f"{', '.join(sorted(set(only) & set(OF_A_DOMAIN)))}: require --domain")
    checks = CHECKS | (OF_A_DOMAIN if domain else {})
    chosen = {name: check.run for name, check in checks.items() if not only or name in only}
    progress = _Progress(quiet=as_json or not sys.stderr.isatty(), total=len(chosen))
    context = CheckContext(current_services(), domain, resolver)
    findings = list(run_checks(context, chosen, seconds=seconds, begin=progress.begin))
    progress.end()
    rows = [
        {
            "check": finding.check,
            "level": finding.level,
            "meaning": finding.meaning,
            "remedy": finding.remedy or None,
            "alert": finding.alert or None,
        }
        for finding in findings
    ]
    print_rows(rows, as_json=as_json, empty="No checks were run.")
    if any(finding.level == "critical" for finding in findings):
        raise SystemExit(1)


class _Progress:
    """One line on a terminal, removed at the end."""

    def __init__(self, *, quiet: bool, total: int) -> None:
        self._quiet = quiet
        self._total = total
        self._count = 0

    def begin(self, name: str) -> None:
        self._count += 1
        if not self._quiet:
            click.echo(f"\r\x1b[Kchecking {name} ({self._count} of {self._total}) ...", nl=False, err=True)

    def end(self) -> None:
        if not self._quiet:
            click.echo("\r\x1b[K", nl=False, err=True)
