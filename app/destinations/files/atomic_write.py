"""Files and links that are whole or not there: nobody sees a part of one, also after a power cut."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.destinations.files.ownership import Ownership


def write(path: Path, data: bytes, own: Ownership, mode: int) -> None:
    """Only we may read it until it has its owner; synced to disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        own.give(path, mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, own: Ownership) -> None:
    """Readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}-new")
    temporary.unlink(missing_ok=True)
    write(temporary, data, own, own.public_mode)
    temporary.replace(path)


def link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`; readers see the old one or the new one, never none."""
    temporary = path.with_name(f".{path.name}-new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


@contextmanager
def locked(slot: Path) -> Iterator[None]:
    """One writer per slot on this machine; the kernel lets go of the lock when its process dies."""
    # Nothing is written into it, and no link is followed: whoever may write in the slot could lead us anywhere.
    file = os.open(slot / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
