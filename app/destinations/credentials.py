"""Files in which the operator keeps a destination's credentials."""

from __future__ import annotations

from pathlib import Path

from app.crypto.secret_files import read_secret
from app.destinations.base import DestinationRefusedError
from app.errors import PermanentError


def read_credential(path: Path, field: str) -> str:
    """The text of a file that only its owner may read; `field` names it in messages.

    Raises `DestinationRefusedError`, also if others may read the file.
    """
    try:
        return read_secret(path)
    except PermanentError as error:
        raise DestinationRefusedError(f"{field}: {error}; store the file there with mode 0600") from None
