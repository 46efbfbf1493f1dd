"""Files in which the operator keeps a destination's secrets."""

from __future__ import annotations

import stat
from pathlib import Path

from app.destinations.base import DestinationRefusedError


def read_private_file(path: Path, field: str) -> str:
    """The text of a file that its owner alone may read; `field` is its name in the destinations file.

    Raises `DestinationRefusedError`: a secret that others can read is none.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise DestinationRefusedError(f"{field}: {path} can be read by others: run `chmod 600 {path}`")
        return path.read_text()
    except OSError as error:
        raise DestinationRefusedError(f"{field}: {path}: {error.strerror}; put the file there, mode 0600") from None
    except UnicodeDecodeError:
        raise DestinationRefusedError(f"{field}: {path} is not a text file") from None
