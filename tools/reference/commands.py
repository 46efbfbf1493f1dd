"""The reference of commands, read from click."""

from __future__ import annotations

from collections.abc import Iterator

import click
from flask import Flask

from app.commands.command_line import register_commands
from app.doctor.checks import CHECKS, OF_A_DOMAIN
from tools.reference import markdown

_INTRO = """\
Run commands in the directory of Certcourier, either with its environment active or as `.venv/bin/flask`. They read
the same settings as the service. Every command accepts `--help`. The exit status is 0 on success, 1 if something is
wrong or was not found, and 2 for a usage error. [Operations](../operations.md) describes when to use which command."""
_CHECKS = {
    "settings": "DNSimple can reach `PUBLIC_URL`.",
    "database": "The database answers and is writable. SQLite: WAL mode, on a local disk.",
    "disk": "`DATA_DIR` and the database's file system have free space.",
    "migrations": "The schema is the one that this version expects.",
    "files": (
        "Nobody else can read the key-encryption key, the webhook secret, `.env` or the database, and no retired key "
        "file is left."
    ),
    "token": "DNSimple accepts the token, and it belongs to `DNSIMPLE_ACCOUNT_ID`.",
    "permissions": (
        "The token may list domains, certificates and webhooks. Whether it may purchase cannot be tested without a "
        "purchase."
    ),
    "quota": "API calls are left, and calls are not paused.",
    "clock": "The clocks of this machine, the database and DNSimple agree.",
    "webhook": "The webhook is registered at DNSimple, exactly once, and not suppressed.",
    "reachability": (
        "A test event sent through `PUBLIC_URL` arrives in this database. It names no account and is deleted again."
    ),
    "workers": "A worker is running, and web server and workers run the same version as the command.",
    "jobs": "No job has failed permanently, and none is late.",
    "orders": "No order has failed.",
    "certificates": "Every certificate in use is renewed in time.",
    "deliveries": "No delivery is failing.",
    "endpoints": "Every endpoint is reachable and serves its certificate.",
    "destinations": "Each destination is reachable and writable, and none is suspended.",
    "zone": "The domain's zone at DNSimple is active and not a secondary copy of another provider's.",
    "delegation": "The domain is delegated only to DNSimple's name servers.",
    "caa": "The closest CAA records allow Let's Encrypt (RFC 8659).",
    "dnssec": "DNSSEC validates. Requires a validating resolver.",
}


def page() -> str:
    """Every command with its arguments, options and example, then the doctor's checks."""
    parts = [part for words, command in all_commands() for part in _parts(words, command)]
    return markdown.page("Commands", _INTRO, *parts, "## Doctor checks", _checks())


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Each command line (`flask jobs list`) with its command."""
    app = Flask("reference")
    app.cli.commands.clear()
    register_commands(app)
    for name, command in sorted(app.cli.commands.items()):
        if isinstance(command, click.Group):
            for subcommand, inner in sorted(command.commands.items()):
                yield f"flask {name} {subcommand}", inner
        else:
            yield f"flask {name}", command


def _parts(words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    yield f"## {words}"
    yield f"```text\n{' '.join([words, *command.collect_usage_pieces(context)])}\n```"
    paragraphs = markdown_help(words, command).split("\n\n")
    yield "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    options = [_option(words, option, context) for option in command.params if isinstance(option, click.Option)]
    if options:
        yield markdown.table(("Option", "Default", "Meaning"), options)
    if command.epilog:
        yield f"```console\n$ {command.epilog.removeprefix('Example: ')}\n```"


def markdown_help(words: str, command: click.Command) -> str:
    """The help text of a command."""
    if not command.help:
        raise markdown.UndocumentedError(f"{words} has no help text")
    return command.help.replace("\b\n", "")


def _option(words: str, option: click.Option, context: click.Context) -> tuple[str, str, str]:
    name = " ".join([*option.opts, *option.secondary_opts])
    text = option.help or _known(option)
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    meaning = [markdown.described(text, f"{words} {name}")]
    if choices:
        meaning.append("One of " + ", ".join(f"`{choice}`" for choice in choices) + ".")
    default = option.get_default(context)
    shown = "" if option.is_flag or option.multiple or not isinstance(default, (str, int, float)) else f"`{default}`"
    value = "" if option.is_flag or choices else f" {option.make_metavar(context)}"
    return f"`{name}{value}`", shown, " ".join(meaning)


def _known(option: click.Option) -> str | None:
    """The meaning of options that `--help` does not explain."""
    return {"--limit": "Maximum number of rows."}.get(option.opts[0])


def _checks() -> str:
    rows = [
        (
            f"`{name}`",
            "with `--domain`" if name in OF_A_DOMAIN else "always",
            markdown.described(_CHECKS.get(name), f"the check {name}"),
        )
        for name in CHECKS | OF_A_DOMAIN
    ]
    return markdown.table(("Check", "Runs", "Passes if"), rows)
