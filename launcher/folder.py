"""One `make run` for each folder of data: two would fight over its jobs, its webhook and its simulator."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from app.process_liveness import is_alive

_LAUNCHER = "launcher"


class LaunchError(Exception):
    """Why the service could not be started, for the person at the terminal."""


class FolderTakenError(LaunchError):
    """Somebody else runs on this folder."""


@dataclass(frozen=True, slots=True)
class FolderLock:
    """Held by us and by every child that has its file open, whoever of them ends first."""

    _file: TextIO

    @property
    def fileno(self) -> int:
        """The open file's number, to be handed on to children."""
        return self._file.fileno()

    def note(self, name: str, pid: int) -> None:
        """Write down who holds it, for the message that the next one gets."""
        self._file.write(f"{name} {pid}\n")
        self._file.flush()

    def release(self) -> None:
        """Let go of it; children that still run keep it."""
        self._file.close()


def lock_folder(data_dir: Path) -> FolderLock:
    """Take the folder, which is made if it is missing.

    Raises `FolderTakenError` with who has it, `LaunchError` if it cannot be written.
    """
    path = data_dir / "run.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise LaunchError(f"DATA_DIR: cannot write in {data_dir}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise FolderTakenError(_who_holds(path)) from None
    file.truncate(0)
    lock = FolderLock(file)
    lock.note(_LAUNCHER, os.getpid())
    return lock


def _who_holds(path: Path) -> str:
    lines = (line.split() for line in path.read_text().splitlines())
    alive = {name: int(pid) for name, pid in lines if is_alive(int(pid))}
    where = f"{path.parent}/"
    if _LAUNCHER in alive:
        return f"it is already running here (pid {alive[_LAUNCHER]}, data in {where}); stop that one with Ctrl-C"
    if alive:
        who = ", ".join(f"{name} (pid {pid})" for name, pid in alive.items())
        pids = " ".join(str(pid) for pid in reversed(alive.values()))
        return f"what an earlier `make run` has started on {where} still runs: {who}. End it first:\n  kill {pids}"
    return f"DATA_DIR: a `make run` that cannot be seen from here works on {where}"
