"""The reference of commands, read from click."""

from __future__ import annotations

from collections.abc import Iterator

import click
from flask import Flask

from app.commands.command_line import register_commands
from app.doctor.checks import CHECKS, OF_A_DOMAIN
from tools.reference import markdown

_INTRO = """\
Run commands in the directory of Certcourier, either with its environment active or as `.venv/bin/certcourier`.
They read the same settings as the service. Every command accepts `--help`. The exit status is 0 on success, 1 if
something is wrong or was not found, and 2 for a usage error. [Operations](../operations.md) describes when to use
which command."""


def page() -> str:
    """Every command with its arguments, options and example, then the doctor's checks."""
    parts = [part for words, command in all_commands() for part in _parts(words, command)]
    return markdown.page("Commands", _INTRO, *parts, "## Doctor checks", _checks())


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Each command line (`certcourier jobs list`) with its command."""
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
            check.passes_if,
        )
        for name, check in (CHECKS | OF_A_DOMAIN).items()
    ]
    return markdown.table(("Check", "Runs", "Passes if"), rows)
