"""The files destination: whole versions, one flip, never an older certificate over a newer one."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from app.destinations.base import (
    DestinationRefusedError,
    DestinationUnavailableError,
)
from app.destinations.files.destination import FilesConfig, FilesDestination
from tests.support.bundles import bundle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


@pytest.fixture
def files(root: Path) -> FilesDestination:
    return FilesDestination(FilesConfig(path=root, keep_versions=2))


def read(root: Path, slot: str = "www.example.com") -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / slot).glob("*.pem")}


def test_the_four_files_are_there(files: FilesDestination, root: Path) -> None:
    assert files.deliver(bundle(1)).outcome == "delivered"
    assert read(root) == {
        "fullchain.pem": "leaf 1\nchain 1\n",
        "privkey.pem": "key 1\n",
        "cert.pem": "leaf 1\n",
        "chain.pem": "chain 1\n",
    }


def test_only_its_owner_can_read_the_key(files: FilesDestination, root: Path) -> None:
    before = os.umask(0)
    try:
        files.deliver(bundle(1))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (root / "www.example.com").glob("*.pem")}
    assert modes == {"privkey.pem": 0o600, "fullchain.pem": 0o644, "cert.pem": 0o644, "chain.pem": 0o644}


def test_a_newer_certificate_replaces_an_older_one(files: FilesDestination, root: Path) -> None:
    files.deliver(bundle(1))
    files.deliver(bundle(2))
    assert read(root)["privkey.pem"] == "key 2\n"


def test_an_older_certificate_never_replaces_a_newer_one(files: FilesDestination, root: Path) -> None:
    files.deliver(bundle(2))
    assert files.deliver(bundle(1)).outcome == "superseded"
    assert read(root)["privkey.pem"] == "key 2\n"


def test_delivering_twice_changes_nothing(files: FilesDestination, root: Path) -> None:
    files.deliver(bundle(1))
    before = (root / "www.example.com" / "current").resolve().stat()
    assert files.deliver(bundle(1)).outcome == "delivered"
    assert (root / "www.example.com" / "current").resolve().stat() == before


def test_previous_versions_are_kept_up_to_the_number(files: FilesDestination, root: Path) -> None:
    for number in range(1, 6):
        files.deliver(bundle(number))
    versions = sorted(path.name for path in (root / "www.example.com" / "versions").iterdir())
    assert [name.rpartition("-")[2] for name in versions] == ["1003", "1004", "1005"]


def test_a_half_written_version_of_a_killed_process_is_replaced(files: FilesDestination, root: Path) -> None:
    files.deliver(bundle(1))
    slot = root / "www.example.com"
    (slot / "versions" / ".new-abc").mkdir()
    (slot / "versions" / ".new-abc" / "privkey.pem").write_text("half")
    damaged = slot / "versions" / "20261103T120000Z-1002"
    damaged.mkdir()
    (damaged / "privkey.pem").write_text("half")
    files.deliver(bundle(2))
    assert read(root)["privkey.pem"] == "key 2\n"
    assert [path.name for path in (slot / "versions").glob(".*")] == []


def test_a_pair_read_through_current_always_matches(files: FilesDestination, root: Path) -> None:
    files.deliver(bundle(0))
    link = root / "www.example.com" / "current"
    wrong, stop = [], threading.Event()

    def poll() -> None:
        while not stop.is_set():
            try:
                folder = os.open(link, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # the version was dropped between the link's resolution and the opening
            try:
                pair = []
                for name in ("cert.pem", "privkey.pem"):
                    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder)) as file:
                        pair.append(file.read().split()[1])
            except FileNotFoundError:
                continue  # the version was dropped while it was read; a server opens both files right after the switch
            finally:
                os.close(folder)
            if pair[0] != pair[1]:
                wrong.append(pair)

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(1, 100):
        files.deliver(bundle(number))
    stop.set()
    reader.join()
    assert wrong == []


def test_writers_of_one_slot_leave_the_newest(files: FilesDestination, root: Path) -> None:
    files.deliver(bundle(0))
    threads = [threading.Thread(target=files.deliver, args=(bundle(number),)) for number in (3, 1, 4, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(root)["cert.pem"] == "leaf 4\n"


@pytest.mark.parametrize(
    "slot", ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "-x", "a..b", "A", "a\x00b", "*.example.com"]
)
def test_a_slot_that_could_escape_is_refused(files: FilesDestination, root: Path, slot: str) -> None:
    with pytest.raises(DestinationRefusedError):
        files.deliver(bundle(1, slot))
    assert not root.exists()


def test_a_folder_that_cannot_be_made_can_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = FilesDestination(FilesConfig(path=tmp_path / "file" / "certificates"))
    with pytest.raises(DestinationUnavailableError, match="check that"):
        files.deliver(bundle(1))
    with pytest.raises(DestinationRefusedError, match="not a folder"):
        files.check()


def test_a_check_changes_nothing(files: FilesDestination, root: Path) -> None:
    files.check()
    assert not root.exists()


def test_a_key_prints_as_nothing() -> None:
    assert "key 1" not in repr(bundle(1))
    assert "key 1" not in f"{bundle(1).key}"
