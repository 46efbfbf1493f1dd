"""One `make run` per data directory: two would compete for its jobs, its webhook and its simulator."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from app.process_liveness import is_alive

_LAUNCHER = "launcher"


class LaunchError(Exception):
    """The service cannot be started; the message gives the reason and the remedy."""


class FolderTakenError(LaunchError):
    """Another process uses this data directory."""


@dataclass(frozen=True, slots=True)
class FolderLock:
    """Held until the launcher and all children, which inherit the open file, have ended."""

    _file: TextIO

    @property
    def fileno(self) -> int:
        """The file descriptor, for the children to inherit."""
        return self._file.fileno()

    def note(self, name: str, pid: int) -> None:
        """Record a holder, for the error message of a second `make run`."""
        self._file.write(f"{name} {pid}\n")
        self._file.flush()

    def release(self) -> None:
        """Release it; children that are still running keep it."""
        self._file.close()


def lock_folder(data_dir: Path) -> FolderLock:
    """Lock the data directory, creating it if necessary.

    Raises `FolderTakenError` with the holder, `LaunchError` if it is not writable.
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
        raise FolderTakenError(_describe_holders(path)) from None
    file.truncate(0)
    lock = FolderLock(file)
    lock.note(_LAUNCHER, os.getpid())
    return lock


def _describe_holders(path: Path) -> str:
    lines = (line.split() for line in path.read_text().splitlines())
    alive = {name: int(pid) for name, pid in lines if is_alive(int(pid))}
    where = f"{path.parent}/"
    if _LAUNCHER in alive:
        return f"Certcourier is already running here (pid {alive[_LAUNCHER]}, data in {where}); stop it with Ctrl-C"
    if alive:
        holders = ", ".join(f"{name} (pid {pid})" for name, pid in alive.items())
        pids = " ".join(str(pid) for pid in reversed(alive.values()))
        return f"processes of an earlier `make run` on {where} are still running: {holders}. Stop them:\n  kill {pids}"
    return f"DATA_DIR: {where} is in use by another `make run`, whose processes are not visible from here"
