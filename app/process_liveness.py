"""Whether a process of this host is running."""

from __future__ import annotations

import os


def is_alive(pid: int) -> bool:
    """Whether a process with this ID exists, whichever user runs it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
