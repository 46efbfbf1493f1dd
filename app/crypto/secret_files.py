"""Files that hold one secret: made once, readable by their owner alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from app.errors import PermanentError
from config import SecretFileError, read_secret_file


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The secret in `path`; when the file is missing it is made, complete from its first instant, with mode 0600.

    Several processes that start at once agree on one secret. Raises `PermanentError` when others may read the file.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
        try:
            with os.fdopen(handle, "w") as file:
                file.write(make() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename, this never replaces what another process made first
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink()
    return read_secret(path)


def read_secret(path: Path) -> str:
    """The secret in a file that exists. Raises `PermanentError` when it is not kept as a secret has to be."""
    try:
        return read_secret_file(path)
    except SecretFileError as error:
        raise PermanentError(str(error)) from None
