"""Files in which the operator keeps a destination's secrets."""

from __future__ import annotations

from pathlib import Path

from app.crypto.secret_files import read_secret
from app.destinations.base import DestinationRefusedError
from app.errors import PermanentError


def read_private_file(path: Path, field: str) -> str:
    """The text of a file that its owner alone may read; `field` is its name in the destinations file.

    Raises `DestinationRefusedError`: a secret that others can read is none.
    """
    try:
        return read_secret(path)
    except PermanentError as error:
        raise DestinationRefusedError(f"{field}: {error}; put the file there, mode 0600") from None
