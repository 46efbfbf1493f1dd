"""Files and links that are complete or absent."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from app.atomic_files import create_file, replace_file, replace_link, write_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"text")
    assert ((tmp_path / "file").read_bytes(), mode(tmp_path / "file")) == (b"text", 0o600)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"other")


def test_a_file_has_its_mode_before_it_has_content(tmp_path: Path) -> None:
    sizes = []

    def prepare(path: Path) -> None:
        sizes.append(path.stat().st_size)
        path.chmod(0o640)

    write_file(tmp_path / "file", b"text", prepare)
    assert (sizes, mode(tmp_path / "file")) == ([0], 0o640)


def test_a_created_file_never_replaces_another(tmp_path: Path) -> None:
    assert create_file(tmp_path / "file", b"first")
    assert not create_file(tmp_path / "file", b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_replacement_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"old")

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    with pytest.raises(PermissionError):
        replace_file(tmp_path / "file", b"new", refuse)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file-new").write_bytes(b"half")
    replace_file(tmp_path / "file", b"whole")
    (tmp_path / ".link-new").symlink_to("nowhere")
    replace_link(tmp_path / "link", "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "link").read_bytes() == b"whole"
