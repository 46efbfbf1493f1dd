"""Runs the documentation's pages as a reader does: writes files, runs commands, compares their output."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.stack import ROOT, free_port, wait_until

_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILES = {"toml", "ini", "python", "yaml"}
_TAKE_UP = "[ ! -f .terminal ] || . ./.terminal"
NOT_RUN = "*Not run by our tests"
# These run in a terminal of their own until the page starts them again.
_SERVICES = {"make run": "-m launcher", ".venv/bin/python -m simulator": "-m simulator"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is where it begins. `said` is the paragraph before it."""

    language: str
    text: str
    line: int
    said: str

    @property
    def runs(self) -> bool:
        """False if the page states that the block is not run by the tests."""
        return not self.said.lstrip().startswith(NOT_RUN)

    @property
    def file(self) -> str | None:
        """The name that the first line gives it as a comment."""
        first = re.match(r"# ([\w./-]+)$", self.text.partition("\n")[0])
        return first[1] if first and self.language in _FILES else None

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command with the output that the page shows."""
        lines = iter([*self.text.splitlines(), "$ "])
        command: list[str] = []
        output: list[str] = []
        for line in lines:
            if line.startswith("$ "):
                if command:
                    yield "\n".join(command), "\n".join(output)
                command, output = [line.removeprefix("$ ")], []
            elif command and not output and command[-1].endswith("\\"):
                command.append(line)
            else:
                output.append(line)


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order; those that are indented, without their indentation."""
    found = []
    for match in _FENCE.finditer(page):
        before = page[: match.start()]
        text = "".join(line.removeprefix(match[1]) for line in match[3].splitlines(keepends=True))
        found.append(Block(match[2], text, before.count("\n") + 1, before.rstrip().rpartition("\n\n")[2]))
    return found


def fits(shown: str, said: str) -> bool:
    """Whether the output is what the page shows: `...` stands for anything, blanks and times do not count."""
    pattern = "(?s:.*?)".join(re.escape(part) for part in _plain(shown).split("..."))
    return re.fullmatch(pattern.replace("\\ ", r"\s*"), _plain(said)) is not None


def _plain(text: str) -> str:
    text = re.sub(r"\d\d:\d\d:\d\d\.\d+", "TIME", text)
    text = re.sub(r"\d{4}-\d\d-\d\d(T[\d:.]+(Z|\+00:00))?", "DATE", text)
    return " ".join(text.split())


class Checkout:
    """A folder that looks like a checkout; commands write only into it. Close it with `stop`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        for path in ROOT.iterdir():
            if path.name not in {".venv", "var", ".env", ".git", "destinations.toml"}:
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        self._ports = {"4567": str(free_port()), "4570": str(free_port())}
        self._environment = environment | {"PORT": self._ports["4567"], "SIMULATOR_PORT": self._ports["4570"]}
        self._services: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, page: str) -> None:
        """Run all blocks of the page in order. Raises AssertionError with the first difference."""
        for block in blocks(page):
            if not block.runs:
                continue
            if block.file is not None:
                (self.folder / block.file).write_text(self._here(block.text))
            elif block.language == "console":
                for command, shown in block.commands():
                    said = self.type(command, shown)
                    assert not shown or fits(shown, said), (
                        f"line {block.line}: {command}\n{said}\n-- is not --\n{shown}"
                    )

    def stop(self) -> None:
        """Stop the running services gracefully."""
        for process in reversed(self._services.values()):
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)

    def type(self, command: str, shown: str = "") -> str:
        """Run a command and return its output with the usual ports. Raises AssertionError if it fails."""
        for service in _SERVICES:
            found = re.match(rf"((?:\w+=\S+ )*){re.escape(service)}", command)
            if found:
                return self._start(service, found[1], self._here(command).removeprefix(found[0]), shown)
        if command.startswith("make "):  # what runs the tests cannot be run by them
            command = command.replace("make ", "make --dry-run ", 1)
        # Variables last from command to command, as in one terminal.
        script = f"{_TAKE_UP}\nset -a\n{self._here(command)}\nstatus=$?; export -p > .terminal; exit $status"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return self._there(done.stdout)

    def _start(self, service: str, variables: str, options: str, shown: str) -> str:
        """Start a service and wait until its output matches the page."""
        earlier = self._services.pop(service, None)
        if earlier is not None:
            earlier.send_signal(signal.SIGINT)
            earlier.wait(60)
        output = self.folder / "terminal.txt"
        script = f"{_TAKE_UP}\n{variables} exec {sys.executable} {_SERVICES[service]} {options}"
        with output.open("wb") as terminal:
            process = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self._environment, stdout=terminal, stderr=terminal
            )
        self._services[service] = process

        def has_said() -> bool:
            assert process.poll() is None, output.read_text()
            return fits(shown, self._there(output.read_text()))

        wait_until(has_said, f"{service} says\n{shown}", 60)
        return self._there(output.read_text())

    def _here(self, text: str) -> str:
        for usual, ours in self._ports.items():
            text = re.sub(rf"\b{usual}\b", ours, text)
        return text

    def _there(self, text: str) -> str:
        for usual, ours in self._ports.items():
            text = text.replace(ours, usual)
        return text
