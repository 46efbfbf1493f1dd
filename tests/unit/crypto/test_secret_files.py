"""Files that hold one secret."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from app.crypto.secret_files import read_or_create, read_secret
from app.errors import PermanentError
from tests.support.handed_out import folder_in


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


NOBODY = 65534


@pytest.mark.parametrize(
    ("owner", "mode", "is_taken"),
    [
        (NOBODY, 0o600, True),
        (NOBODY, 0o400, True),
        (NOBODY, 0o640, False),
        (NOBODY, 0o604, False),
        (0, 0o640, True),  # root has chosen the group
        (0, 0o440, True),
        (0, 0o660, False),
        (0, 0o644, False),
        (0, 0o444, False),
        (1, 0o440, False),  # who owns a file can change it
    ],
)
def test_a_secret_is_taken_from_files_that_nobody_else_reads(owner: int, mode: int, is_taken: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "secret"
        file.write_text("abc")
        os.chown(file, owner, NOBODY)
        file.chmod(mode)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            if is_taken:
                assert read_secret(file) == "abc"
            else:
                with pytest.raises(PermanentError, match=r"chmod 600|chown"):
                    read_secret(file)
        finally:
            os.seteuid(0)
            os.setegid(0)


@pytest.mark.parametrize(
    ("folder", "mode", "is_taken"),
    [
        ("/run/secrets", 0o444, True),
        ("/run/secrets", 0o666, False),
        ("/run/credentials/certcourier.service", 0o440, True),
        ("/run/other", 0o444, False),
    ],
)
def test_what_docker_and_systemd_hand_out_is_taken(folder: str, mode: int, is_taken: bool) -> None:
    with folder_in(folder) as place:
        file = place / "secret"
        file.write_text("abc")
        file.chmod(mode)
        if is_taken:
            assert read_secret(file) == "abc"
        else:
            with pytest.raises(PermanentError, match="chmod 600"):
                read_secret(file)


def test_a_link_from_where_secrets_are_handed_out_to_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("abc")
    (tmp_path / "secret").chmod(0o644)
    with folder_in("/run/secrets") as place:
        (place / "secret").symlink_to(tmp_path / "secret")
        with pytest.raises(PermanentError, match="chmod 600"):
            read_secret(place / "secret")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(PermanentError, match=r"is empty|is not text"):
        read_secret(file)
