"""A key-encryption key that is taken out is in a file of its own before it leaves its place, whatever happens."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from app.crypto.encryption import Encryptor, key_id_of
from app.crypto.keyring import KeyFile
from app.services import Services
from tests.support.command_line import run
from tests.support.encrypted_keys import (
    add_encrypted_keys,
    assert_all_decrypt,
    key_file_copies,
)
from tests.support.stack import ROOT


def test_the_dropped_key_is_kept_in_a_file_of_its_own(app: Flask, services: Services) -> None:
    file = services.settings.kek_file
    old, text = services.encryptor.key_id, file.read_text()
    output = run(app, "keys", "rotate")
    copy = file.with_name(f"key-encryption.key.{old}.old")
    assert copy.read_text() == text
    assert copy.stat().st_mode & 0o777 == 0o600
    assert f"{copy} holds a retired key" in output
    assert str(copy) in run(app, "keys", "status"), "until it has been moved away"
    copy.unlink()
    assert str(copy) not in run(app, "keys", "status")


_KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from app.crypto.keyring import KeyFile
from app.crypto.encryption import key_id_of

path, old, new = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
copy, lines = path.with_name(f"{path.name}.{key_id_of(old)}.old"), {f"{new}\\n{old}\\n", f"{new}\\n"}

def kill_at(count):
    def hear(event, arguments):
        nonlocal count
        if event.split(".")[0] in {"open", "os"} and any("key" in str(one) for one in arguments[:2]):
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hear)

def child(count):
    kill_at(count)
    with KeyFile(path).changing():
        KeyFile(path).take_out({key_id_of(old)})

for count in range(1, 200):
    for file in path.parent.iterdir():
        file.unlink()
    path.write_text(f"{new}\\n{old}\\n")
    path.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        child(count)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    text = path.read_text()
    assert text in lines, (count, text)
    assert old in text or copy.read_text() == f"{old}\\n", count
    if status == 0:
        break
    with KeyFile(path).changing():
        assert not list(path.parent.glob(".*")), "leftovers hold keys"
        KeyFile(path).take_out({key_id_of(old)})
    assert (path.read_text(), copy.read_text()) == (f"{new}\\n", f"{old}\\n")
print(count - 1)
"""


@pytest.mark.chaos
def test_a_kill_at_any_instant_does_not_lose_the_old_key(tmp_path: Path) -> None:
    """At each time when a file or folder is opened, renamed or changed, until one run comes to its end."""
    folder = tmp_path / "keys"
    folder.mkdir()
    arguments = [str(folder / "key-encryption.key"), Encryptor.new_key(), Encryptor.new_key()]
    command = [sys.executable, "-c", _KILLED_EVERYWHERE, *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 8, "killed so many times"


def test_the_copy_is_on_disk_before_the_key_leaves_its_file(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = services.settings.kek_file
    old, text = services.encryptor.key_id, file.read_text()
    file.write_text(f"{Encryptor.new_key()}\n{text}")
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        copied = KeyFile(file).copy_of(old).exists()
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name[:15], copied and text in file.read_text()))

    monkeypatch.setattr(os, "fsync", watched)
    KeyFile(file).take_out({old})
    monkeypatch.undo()
    names = [".key-encryption", file.parent.name[:15], ".key-encryption", file.parent.name[:15]]
    assert synced == list(zip(names, [False, True, True, False], strict=True))


def test_a_folder_that_cannot_be_written_keeps_the_key_and_says_what_to_do(
    app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a key file that Docker or systemd puts there; root may write everywhere, so its folder refuses here."""
    add_encrypted_keys(services, 3)
    file = services.settings.kek_file
    old = services.encryptor.key_id
    file.write_text(f"{Encryptor.new_key()}\n{file.read_text()}")
    before = file.read_text()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("app.crypto.keyring.replace_file", refuse)
    output = run(app, "keys", "rotate", status=1)
    assert "Everything that could be decrypted is now encrypted under key" in output
    assert f"Read-only file system), so key {old} is still in it" in output
    assert "save its line with the backups' keys, then remove it at the file's source" in output
    assert file.read_text() == before
    assert "no longer in use" in run(app, "keys", "status", status=1)


def test_an_unrelated_file_is_not_overwritten_by_the_dropped_key(app: Flask, services: Services) -> None:
    file = services.settings.kek_file
    copy = KeyFile(file).copy_of(services.encryptor.key_id)
    copy.write_text("something else")
    assert "move it away" in run(app, "keys", "rotate", status=1)
    assert copy.read_text() == "something else"
    assert len(file.read_text().split()) == 2
    copy.unlink()
    run(app, "keys", "rotate")
    assert key_file_copies(services) == [copy]


def test_a_database_restored_from_before_the_rotation_is_decrypted_with_the_copy(services: Services) -> None:
    """As after a restore: the database names the old key, the file has only the new one."""
    add_encrypted_keys(services, 3)
    file, old = services.settings.kek_file, services.encryptor.key_id
    before = file.read_text()
    file.write_text(f"{Encryptor.new_key()}\n")
    copy = KeyFile(file).copy_of(old)
    copy.write_text(before)
    copy.chmod(0o600)
    restored = create_app(services.settings)
    told = run(restored, "keys", "status", status=1)
    assert f"Key {old} is needed again" in told
    assert "keys drop" not in told
    assert "is not lost: it is in" in run(restored, "keys", "replace", "--lost", status=1)
    file.write_text(file.read_text() + copy.read_text())
    run(restored, "keys", "rotate")
    assert_all_decrypt(services, 3)
    assert key_file_copies(services) == [copy]
    restored.extensions["certcourier"].services.database.close()


def test_a_key_that_nothing_needs_is_dropped_by_hand(app: Flask, services: Services) -> None:
    file = services.settings.kek_file
    extra = Encryptor.new_key()
    before = file.read_text()
    file.write_text(f"{before}{extra}\n")
    assert "no longer in use" in run(app, "keys", "status", status=1)
    run(app, "keys", "drop")
    assert file.read_text() == before
    assert KeyFile(file).copy_of(key_id_of(extra)).read_text() == f"{extra}\n"
