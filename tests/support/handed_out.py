"""Folders in which Docker and systemd provide secrets, for tests that run as root."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def folder_in(place: str) -> Iterator[Path]:
    """A new folder there, removed at the end. Skips where only root can make one, and we are not."""
    made = Path(place) / f"certcourier-{uuid.uuid4().hex}"
    try:
        made.mkdir(parents=True)
    except PermissionError:
        pytest.skip(f"only root can write to {place}")
    try:
        yield made
    finally:
        shutil.rmtree(made)
