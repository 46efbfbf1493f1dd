"""`flask doctor`."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from typing import Any

import click
from flask.cli import with_appcontext

from app.commands.output import as_json_option, current_services, print_rows
from app.commands.reading import DomainName
from app.doctor.checks import CHECKS, OF_A_DOMAIN
from app.doctor.findings import CheckContext, run_checks


class NameServer(click.ParamType[tuple[str, int]]):
    """An address and optionally a port."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Address and port, 53 unless given."""
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


@click.command("doctor", epilog="Example: flask doctor --domain customer.example")
@click.option("--domain", type=DomainName(), help="Look at this domain's zone, delegation, CAA and DNSSEC too.")
@click.option("--resolver", type=NameServer(), help="Name server to ask instead of the system's: ADDRESS[:PORT].")
@click.option("--only", multiple=True, type=click.Choice([*CHECKS, *OF_A_DOMAIN]), help="Only this check; repeatable.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=20.0, show_default=True, help="For each check.")
@as_json_option
@with_appcontext
def doctor(
    domain: str | None, resolver: tuple[str, int] | None, only: tuple[str, ...], seconds: float, as_json: bool
) -> None:
    """Find out what is wrong, and say what to do; exits with 1 when there is a problem.

    Changes nothing. Makes about six calls to DNSimple.
    """
    if domain is None and set(only) & set(OF_A_DOMAIN):
        raise click.UsageError(f"{', '.join(sorted(set(only) & set(OF_A_DOMAIN)))}: give a --domain")
    checks = CHECKS | (OF_A_DOMAIN if domain else {})
    chosen = {name: check for name, check in checks.items() if not only or name in only}
    progress = _Progress(quiet=as_json or not sys.stderr.isatty(), total=len(chosen))
    examination = CheckContext(current_services(), domain, resolver)
    findings = list(run_checks(examination, chosen, seconds=seconds, begin=progress.begin))
    progress.end()
    rows = [
        {"check": one.check, "level": one.level, "meaning": one.meaning, "remedy": one.remedy or None}
        for one in findings
    ]
    print_rows(rows, as_json=as_json, empty="Nothing was checked.")
    if any(one.level == "problem" for one in findings):
        raise SystemExit(1)


class _Progress:
    """One line on a terminal, which goes when all is done."""

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
