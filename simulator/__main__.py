"""`python -m simulator`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
import sys
from pathlib import Path
from typing import Any

from simulator.server import Server
from simulator.settings import Settings


def parser() -> argparse.ArgumentParser:
    """One option for each setting."""
    found = argparse.ArgumentParser(
        prog="python -m simulator",
        description="A look-alike of DNSimple's certificates API and webhooks, with a certification authority that "
        "nobody trusts. Point a client at http://HOST:PORT with the token below.",
    )
    for setting in dataclasses.fields(Settings):
        found.add_argument(
            setting.metadata.get("flag", "--" + setting.name.replace("_", "-")),
            dest=setting.name,
            **_kind(setting),
        )
    return found


def _kind(setting: dataclasses.Field[Any]) -> dict[str, Any]:
    text = setting.metadata["help"]
    if setting.name == "state":
        return {"type": Path, "default": None, "metavar": "FILE", "help": text}
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


def options_table() -> str:
    """The table of docs/simulator.md; a test compares them."""
    rows = ["| Option | Default | Meaning |", "|---|---|---|"]
    for setting in dataclasses.fields(Settings):
        flag = setting.metadata.get("flag", "--" + setting.name.replace("_", "-"))
        default = setting.default
        shown = {False: "off", True: "on"}[default] if isinstance(default, bool) else f"`{default}`"
        if default in {None, dataclasses.MISSING}:
            shown = ""
        rows.append(f"| `{flag}` | {shown} | {setting.metadata['help']} |")
    return "\n".join(rows)


def main() -> int:
    """Listen first, so that a busy port is a message and not a traceback; then serve until SIGTERM or Ctrl-C."""
    settings = Settings(**vars(parser().parse_args()))
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        print(f"cannot listen on {settings.host} port {settings.port}: {reason}", file=sys.stderr)
        return 2
    listener.set_inheritable(True)
    Server(settings, listener).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
