"""`python -m simulator`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from simulator.catalogue import catalogue_table, parse_rates
from simulator.scenario import Scenario, ScenarioError, load
from simulator.server import Server
from simulator.settings import Settings


class _Parser(argparse.ArgumentParser):
    """Reports an error without printing all options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nRun {self.prog} --help for all options.\n")


def parser() -> argparse.ArgumentParser:
    """One option for each setting, and the scenario file."""
    found = _Parser(
        prog="python -m simulator",
        usage="%(prog)s [OPTION ...]",
        description="Simulates DNSimple's certificate API and webhooks, with an untrusted certification authority. "
        "Point a client at http://HOST:PORT with the token below.",
        epilog="--list-faults and docs/simulator.md describe the faults.",
    )
    found.add_argument(
        "--scenario", type=Path, metavar="FILE", help="TOML file with options, rates, scripted faults and outcomes"
    )
    found.add_argument("--list-faults", action="store_true", help="list the faults that can have a rate, and exit")
    for setting in dataclasses.fields(Settings):
        found.add_argument(flag(setting), dest=setting.name, **_kind(setting))
    return found


def flag(setting: dataclasses.Field[Any]) -> str:
    """The command-line option of a setting."""
    return str(setting.metadata.get("flag", "--" + setting.name.replace("_", "-")))


def _kind(setting: dataclasses.Field[Any]) -> dict[str, Any]:
    text = setting.metadata["help"]
    if setting.name == "state":
        return {"type": Path, "default": None, "metavar": "FILE", "help": text}
    if setting.name == "rates":
        return {"action": "append", "type": _pair, "default": [], "metavar": "NAME=RATE", "help": text}
    if setting.default is dataclasses.MISSING:
        return {"action": "append", "default": [], "metavar": "NAME", "help": text}
    if isinstance(setting.default, bool):
        shown = f"{text} (default: {'yes' if setting.default else 'no'})"
        return {"action": argparse.BooleanOptionalAction, "default": setting.default, "help": shown}
    return {
        "type": type(setting.default),
        "default": setting.default,
        "choices": setting.metadata.get("choices"),
        "help": f"{text} (default: %(default)s)",
    }


def _pair(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    try:
        return name, parse_rates([(name, rate)])[name]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def options_table() -> str:
    """The table in docs/simulator.md; a test compares them."""
    rows = ["| Option | Default | Meaning |", "|---|---|---|"]
    for setting in dataclasses.fields(Settings):
        default = setting.default
        shown = {False: "off", True: "on"}[default] if isinstance(default, bool) else f"`{default}`"
        if default in {None, dataclasses.MISSING}:
            shown = ""
        rows.append(f"| `{flag(setting)}` | {shown} | {setting.metadata['help']} |")
    return "\n".join(rows)


def parse(arguments: list[str] | None = None) -> tuple[Settings, Scenario]:
    """Merge the command line over the scenario file. Exits with a message if either is invalid."""
    found = parser()
    first = found.parse_args(arguments)
    if first.list_faults:
        print(catalogue_table())
        sys.exit(0)
    scenario = Scenario()
    if first.scenario:
        try:
            scenario = load(first.scenario)
        except ScenarioError as error:
            found.error(str(error))
    options = dict(scenario.options)
    found.set_defaults(**(options | {"rates": list(options.get("rates", {}).items())}))
    values = vars(found.parse_args(arguments))
    del values["scenario"], values["list_faults"]
    return Settings(**values | {"rates": dict(values["rates"])}), scenario


def main() -> int:
    """Serve until SIGTERM or Ctrl-C. Listens first, so a busy port is reported without a traceback."""
    settings, scenario = parse()
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        print(f"cannot listen on {settings.host} port {settings.port}: {reason}", file=sys.stderr)
        return 2
    listener.set_inheritable(True)
    Server(settings, listener, scenario).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
