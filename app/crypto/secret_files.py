"""Files that hold one secret, readable only by their owner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.atomic_files import create_file
from app.errors import PermanentError
from config import SecretFileError, read_secret_file


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The secret in `path`; a missing file is created with mode 0600.

    Processes that start at the same time agree on one secret. Raises `PermanentError` if others may read the file.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_file(path, f"{make()}\n".encode())
    return read_secret(path)


def read_secret(path: Path) -> str:
    """The secret in an existing file. Raises `PermanentError` if it cannot be read or others may read it."""
    try:
        return read_secret_file(path)
    except SecretFileError as error:
        raise PermanentError(str(error)) from None
