"""Files and links that are complete or absent: no reader sees a part of one, even after a power failure."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_file(path: Path, data: bytes, prepare: Callable[[Path], object] = lambda _: None) -> None:
    """Create a file and sync it to disk. Its mode is 0600 until `prepare` sets owner and mode, before it has content.

    Raises `FileExistsError`.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        prepare(path)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def create_file(path: Path, data: bytes) -> bool:
    """Create a file with mode 0600, complete when it appears. False if it exists or another process was faster."""
    with _temporary(path, secrets.token_hex(8)) as temporary:
        write_file(temporary, data)
        try:
            os.link(temporary, path)  # unlike a rename, never replaces what another process created first
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


def replace_file(path: Path, data: bytes, prepare: Callable[[Path], object] = lambda _: None) -> None:
    """Create or replace a file, synced to disk. The caller makes sure that only one process does this at a time."""
    with _temporary(path, "new") as temporary:
        write_file(temporary, data, prepare)
        temporary.replace(path)
    sync_folder(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`. One caller at a time, as above; `sync_folder` puts it on disk."""
    with _temporary(path, "new") as temporary:
        temporary.symlink_to(target)
        temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Put the folder's entries on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}-{suffix}")
    temporary.unlink(missing_ok=True)  # left by a process that was killed
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
