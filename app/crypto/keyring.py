"""The key-encryption keys: the file that holds them, and which of them is primary.

The database names the primary key, so that hosts agree while their files differ, and so that a key is dropped only
when nothing can be encrypted with it any more.
"""

from __future__ import annotations

import fcntl
import glob
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.orm import Session

from app.atomic_files import replace_file
from app.crypto.encryption import Encryptor, key_id_of
from app.crypto.secret_files import read_or_create, read_secret
from app.db.installation_state import ENCRYPTION_KEY_ID
from app.errors import PermanentError


def encryption_key_id(session: Session) -> str | None:
    """The ID of the key to encrypt with in this transaction; it stays primary until the transaction ends.

    None before the first process has started. The ciphertext must be committed in the same transaction.
    """
    return ENCRYPTION_KEY_ID.get_locked(session, shared=True)


class KeyFile:
    """A file with one key-encryption key per line, the newest first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> str:
        """The keys; a missing file is created with a new one."""
        keys = read_or_create(self.path, Encryptor.new_key)
        self._seen = self._stamp()
        return keys

    def reread(self) -> str | None:
        """The keys if the file has changed since it was read, else None."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        keys = read_secret(self.path)
        self._seen = stamp
        return keys

    def write(self, keys: Sequence[str]) -> None:
        """Replace the keys atomically. Raises `PermanentError` if the file cannot be replaced."""
        try:
            self._put(self.path, keys, self.path.stat().st_mode & 0o777)
        except OSError as error:
            raise PermanentError(
                f"KEY_ENCRYPTION_KEY_FILE: {self.path} cannot be replaced by this process ({error.strerror}). Change "
                "it at its source: add a key from `certcourier keys new` as the first line, then run this command again"
            ) from None

    def take_out(self, key_ids: Collection[str]) -> list[Path]:
        """Move each of these keys into a file of its own, mode 0600, which is on disk before the key leaves this one.

        Returns those files. Raises `PermanentError`, and removes nothing, if that is not possible.
        """
        keys = self.read()
        taken = {key_id_of(key): key for key in keys.split() if key_id_of(key) in key_ids}
        try:
            for key_id, key in taken.items():
                copy = self.copy_of(key_id)
                if copy.exists() and copy.read_text(errors="replace").strip() != key:
                    raise PermanentError(f"{copy} exists but does not hold key {key_id}: move it away, then retry")
                self._put(copy, [key], 0o600)
            self._put(self.path, without(keys, set(key_ids)), self.path.stat().st_mode & 0o777)
        except OSError as error:
            raise PermanentError(
                f"KEY_ENCRYPTION_KEY_FILE: {self.path} cannot be replaced by this process ({error.strerror}), so key "
                f"{', '.join(taken)} is still in it. Only backups of the database need it: save its line with the "
                "backups' keys, then remove it at the file's source"
            ) from None
        return [self.copy_of(key_id) for key_id in taken]

    def copy_of(self, key_id: str) -> Path:
        """The file that this key is moved to when it is dropped."""
        return self.path.with_name(f"{self.path.name}.{key_id}.old")

    def copies(self) -> list[Path]:
        """Files of retired keys that are still beside the key file."""
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.*.old"))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock for changing the file; it is released when the process ends, however that ends."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_leftovers()
            yield
        except BlockingIOError:
            raise PermanentError(f"another `certcourier keys` command is changing {self.path}: wait for it") from None
        finally:
            os.close(folder)

    def _stamp(self) -> tuple[int, int, int]:
        status = self.path.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _put(self, path: Path, keys: Sequence[str], mode: int) -> None:
        """Write a file beside ours, for the same owner."""
        owner = self.path.stat()

        def prepare(file: Path) -> None:
            file.chmod(mode)
            os.chown(file, owner.st_uid, owner.st_gid)

        replace_file(path, "".join(f"{key}\n" for key in keys).encode(), prepare)

    def _remove_leftovers(self) -> None:
        """Delete what a killed process was writing: it holds keys that are also in the file itself."""
        if self.path.exists():
            for leftover in self.path.parent.glob(f".{glob.escape(self.path.name)}*-*"):
                with suppress(OSError):
                    leftover.unlink()


def without(keys: str, dropped: set[str]) -> list[str]:
    """The keys without those with these IDs, in their order."""
    return [key for key in keys.split() if key_id_of(key) not in dropped]
