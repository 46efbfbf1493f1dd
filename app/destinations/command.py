"""Hooks: a command that runs when certificates are in place, such as `nginx -s reload`.

It runs without a shell, in a process group of its own, and gets the certificates' details in its environment and on its
standard input. It never gets a private key.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import Field, model_validator

from app.destinations.base import (
    Bundle,
    Change,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
)

# All that a command gets of the worker's environment, which holds tokens and passwords.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_OUTPUT_BYTES = 2000
_GRACE_SECONDS = 2.0
# PostgreSQL stores no NUL, and a log entry must stay one line.
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\uffff]+")


class CommandConfig(DestinationConfig):
    """`[[destination]]` with `kind = "command"`."""

    kind: Literal["command"] = "command"
    command: tuple[str, ...] = Field(
        min_length=1, description="Program and arguments, as a list; no shell, no expansion."
    )
    run_for: Literal["all", "each"] = Field(
        "all",
        description="`all`: one run for all certificates that are in place at its start; `each`: one run for each.",
    )
    min_interval_seconds: float = Field(
        2.0,
        ge=0,
        le=3600,
        description="`all`: minimum time between the starts of two runs, in seconds.",
    )
    kill_after_seconds: float = Field(
        50.0,
        gt=0,
        description="Time limit after which the command is killed, in seconds; at least 5 less than `timeout_seconds`.",
    )
    directory: Path = Field(Path("/"), description="Working directory of the command.")

    @model_validator(mode="after")
    def _killed_in_time(self) -> Self:
        if self.kill_after_seconds + 5 > self.timeout_seconds:
            raise ValueError("kill_after_seconds: must be at least 5 less than timeout_seconds")
        return self


class CommandDestination:
    """Runs a command. It holds no slots: the files belong to the destinations in `after`."""

    Config = CommandConfig

    def __init__(self, config: CommandConfig) -> None:
        self._config = config

    @property
    def config(self) -> CommandConfig:
        return self._config

    @property
    def min_interval_seconds(self) -> float | None:
        return self._config.min_interval_seconds if self._config.run_for == "all" else None

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        return DeliveryResult("delivered", self.run([bundle.change]))

    def run(self, changes: Sequence[Change]) -> str:
        started = time.monotonic()
        status, output = self._run(changes)
        seconds = time.monotonic() - started
        suffix = f": {output}" if output else ""
        if status is None:
            limit = f"{self._config.kill_after_seconds:g} seconds (kill_after_seconds)"
            raise DestinationUnavailableError(f"{self._program} was killed after {limit}{suffix}")
        if status != 0:
            how = f"exited with {status}" if status > 0 else f"was terminated by {signal.Signals(-status).name}"
            raise DestinationUnavailableError(f"{self._program} {how} after {seconds:.1f} seconds{suffix}")
        return f"{self._program} exited with 0 after {seconds:.1f} seconds{suffix}"

    def check(self) -> None:
        where = f"destination {self._config.name}"
        if not self._config.directory.is_dir():
            raise DestinationRefusedError(f"{where}: directory: {self._config.directory} is not a folder")
        if shutil.which(self._config.directory / self._program) is None and shutil.which(self._program) is None:
            raise DestinationRefusedError(
                f"{where}: command: {self._program} is not a program that this process can run; use its full path"
            )

    @property
    def _program(self) -> str:
        return self._config.command[0]

    def _run(self, changes: Sequence[Change]) -> tuple[int | None, str]:
        """Exit status (None: killed) and the end of the output."""
        with tempfile.TemporaryFile() as lines:  # a file, so that a command that never reads it does not block
            lines.write("".join(json.dumps(_line(change)) + "\n" for change in changes).encode())
            lines.seek(0)
            try:
                process = subprocess.Popen(  # noqa: S603, no shell; the command is the operator's
                    self._config.command,
                    cwd=self._config.directory,
                    env=self._environment(changes),
                    stdin=lines,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise DestinationUnavailableError(
                    f"{self._program} cannot be started: {error.strerror}; check `command` and `directory`"
                ) from error
        assert process.stdout is not None  # noqa: S101, stdout is a pipe
        with process.stdout as stdout:
            output = _Output(stdout)
            ended = output.wait(process, self._config.kill_after_seconds)
            if not ended:
                _kill(process)
            return (process.returncode if ended else None), output.text()

    def _environment(self, changes: Sequence[Change]) -> dict[str, str]:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"CERTCOURIER_DESTINATION": self._config.name, "CERTCOURIER_COUNT": str(len(changes))}
        if self._config.run_for == "each":
            (change,) = changes
            for name, value in _line(change).items():
                if isinstance(value, dict):
                    environment |= {f"CERTCOURIER_{_variable(key)}": path for key, path in value.items()}
                else:
                    text = ",".join(value) if isinstance(value, list) else str(value)
                    environment[f"CERTCOURIER_{name.upper()}"] = text
        return environment


class _Output:
    """Reads a command's output, and keeps its end."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept = b""
        self._cut = False
        os.set_blocking(pipe.fileno(), False)

    def wait(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Whether the process ended in time. Processes that it left in the background are not waited for."""
        end = time.monotonic() + seconds
        handle = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(handle, selectors.EVENT_READ)
                selector.register(self._pipe, selectors.EVENT_READ)
                while process.poll() is None:
                    remaining = end - time.monotonic()
                    if remaining <= 0:
                        return False
                    ready = [key.fileobj for key, _ in selector.select(remaining)]
                    if self._pipe in ready and self._read() == b"":
                        selector.unregister(self._pipe)
            return True
        finally:
            os.close(handle)

    def text(self) -> str:
        """The end of the output, without unprintable characters."""
        for _ in range(16):  # what is left in the pipe, which a background process may keep filling
            if not self._read():
                break
        text = _UNPRINTABLE.sub(" ", self._kept.decode(errors="replace")).strip()
        return f"... {text}" if self._cut else text

    def _read(self) -> bytes | None:
        """Some bytes, none at the end, or None if there are none yet."""
        try:
            data = os.read(self._pipe.fileno(), 65536)
        except BlockingIOError:
            return None
        self._cut = self._cut or len(self._kept) + len(data) > _OUTPUT_BYTES
        self._kept = (self._kept + data)[-_OUTPUT_BYTES:]
        return data


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process group, then SIGKILL."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _line(change: Change) -> dict[str, object]:
    return {
        "lineage": change.slot,
        "certificate_id": change.certificate_id,
        "common_name": change.common_name,
        "names": list(change.names),
        "fingerprint_sha256": change.fingerprint,
        "places": {name: str(path.absolute()) for name, path in change.places.items()},
    }


def _variable(place: str) -> str:
    return "FOLDER" if place == "folder" else f"{place.upper()}_FILE"
