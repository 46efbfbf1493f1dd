"""All commands, from click itself."""

from __future__ import annotations

from collections.abc import Iterator

import click
from flask import Flask

from app.commands.command_line import register_commands
from app.doctor.checks import CHECKS, OF_A_DOMAIN
from tools.reference import markdown

_INTRO = """\
Run in the folder of Certcourier, with its environment active or as `.venv/bin/flask`; the settings are those of the
service. Every one takes `--help`. The exit status is 0 when all is well, 1 when something is wrong or is not there, 2
when the command was written wrongly. What an operator wants with them is told in [operations](../operations.md)."""


def page() -> str:
    """Every command with its arguments, options and example."""
    parts = [part for words, command in all_commands() for part in _parts(words, command)]
    return markdown.page("Commands", _INTRO, *parts, "## Checks of the doctor", _checks())


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """What may be typed (`flask jobs list`), with its command."""
    app = Flask("reference")
    app.cli.commands.clear()
    register_commands(app)
    for name, command in sorted(app.cli.commands.items()):
        if isinstance(command, click.Group):
            for inner, one in sorted(command.commands.items()):
                yield f"flask {name} {inner}", one
        else:
            yield f"flask {name}", command


def _parts(words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    yield f"## {words}"
    yield f"```text\n{' '.join([words, *command.collect_usage_pieces(context)])}\n```"
    yield "\n\n".join(" ".join(part.split()) for part in markdown_help(words, command).split("\n\n"))
    options = [_option(words, option, context) for option in command.params if isinstance(option, click.Option)]
    if options:
        yield markdown.table(("Option", "Default", "Meaning"), options)
    if command.epilog:
        yield f"```console\n$ {command.epilog.removeprefix('Example: ')}\n```"


def markdown_help(words: str, command: click.Command) -> str:
    """What `--help` says first."""
    if not command.help:
        raise markdown.UndocumentedError(f"{words} has no docstring")
    return command.help.replace("\b\n", "")


def _option(words: str, option: click.Option, context: click.Context) -> tuple[str, str, str]:
    name = " ".join([*option.opts, *option.secondary_opts])
    said = option.help or _known(option)
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    meaning = [markdown.described(said, f"{words} {name}")]
    if choices:
        meaning.append("One of " + ", ".join(f"`{choice}`" for choice in choices) + ".")
    default = option.get_default(context)
    shown = "" if option.is_flag or option.multiple or not isinstance(default, (str, int, float)) else f"`{default}`"
    value = "" if option.is_flag or choices else f" {option.make_metavar(context)}"
    return f"`{name}{value}`", shown, " ".join(meaning)


def _known(option: click.Option) -> str | None:
    """What needs no explanation in a command's help."""
    return {"--limit": "At most so many."}.get(option.opts[0])


def _checks() -> str:
    rows = [
        (f"`{name}`", "with `--domain`" if name in OF_A_DOMAIN else "always", markdown.summary(check, f"check {name}"))
        for name, check in (CHECKS | OF_A_DOMAIN).items()
    ]
    return markdown.table(("Check", "When", "Is well when"), rows)
