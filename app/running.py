"""What `make run` shares with its demo: messages to the terminal, and that it runs once in a folder."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class LaunchError(Exception):
    """Why the service could not be started, for the person at the terminal."""


class RunningLock:
    """The right to run in a folder: a locked file that lists the processes that do.

    Children inherit it, so one that was left behind holds it too.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.ftruncate(descriptor, 0)
        self.note("make run", os.getpid())

    def note(self, name: str, pid: int) -> None:
        """Add a process to the list."""
        os.pwrite(self.descriptor, f"{pid} {name}\n".encode(), os.fstat(self.descriptor).st_size)


def lock(folder: Path) -> RunningLock:
    """Raises `LaunchError` that names the processes that run there already."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "running.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running = _running(os.pread(descriptor, 4096, 0).decode(errors="replace"))
        os.close(descriptor)
        names = ", ".join(f"{name} (process {pid})" for pid, name in running.items())
        raise LaunchError(
            f"it runs already with the data in {folder}/: {names or 'processes that are not known'}.\n"
            f"Press Ctrl-C there, or end it with: kill {' '.join(map(str, running))}\n"
            "To run another one beside it, give it a folder and ports of its own:\n"
            f"  VAR_DIR={folder}2 PORT=4667 SIMULATOR_PORT=4670 make run"
        ) from None
    return RunningLock(descriptor)


def _running(listed: str) -> dict[int, str]:
    found = {}
    for line in listed.splitlines():
        pid, _, name = line.partition(" ")
        with suppress(ValueError, ProcessLookupError, PermissionError):
            os.kill(int(pid), 0)
            found[int(pid)] = name
    return found


def say(text: str, file: Any = None) -> None:
    """Print it now, whoever reads."""
    print(text, file=file or sys.stdout, flush=True)
