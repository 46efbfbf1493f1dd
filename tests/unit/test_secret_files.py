"""Files that hold one secret."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from app.errors import PermanentError
from app.storage.secret_files import read_or_create


def test_a_missing_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    assert read_or_create(path, lambda: "abc") == "abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_an_existing_secret_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    read_or_create(path, lambda: "first")
    assert read_or_create(path, lambda: "second") == "first"


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    path, found = tmp_path / "secret", []
    barrier = threading.Barrier(8)

    def start(number: int) -> None:
        barrier.wait()
        found.append(read_or_create(path, lambda: f"secret {number}"))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {path.read_text().strip()}


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("abc")
    path.chmod(0o640)
    with pytest.raises(PermanentError, match="chmod 600"):
        read_or_create(path, lambda: "new")
