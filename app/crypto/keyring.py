"""Where the key-encryption keys come from, and which of them the whole installation seals under.

Which one that is stands in the database, so that hosts whose files differ for a while agree, and so that a key is
dropped only when nothing can be sealed under it any more.
"""

from __future__ import annotations

import fcntl
import glob
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.orm import Session

from app.crypto.encryption import Encryptor, key_id_of
from app.crypto.secret_files import read_or_create, read_secret
from app.db.installation_state import ENCRYPTION_KEY_ID
from app.errors import PermanentError


def encryption_key_id(session: Session) -> str | None:
    """The ID of the key to seal under in this transaction, which cannot be replaced before it ends.

    None before the first process has started. What is sealed must be committed in the same transaction.
    """
    return ENCRYPTION_KEY_ID.get_locked(session, shared=True)


class KeyFile:
    """A file with one key-encryption key a line, the one to seal under first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> str:
        """The keys; a missing file is made with a fresh one."""
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
        """Replace the keys in one step: whoever reads finds all the old ones or all the new ones.

        Raises `PermanentError` when the file cannot be replaced.
        """
        try:
            self._put(self.path, keys, self.path.stat().st_mode & 0o777)
        except OSError as error:
            raise PermanentError(
                f"KEY_ENCRYPTION_KEY_FILE: {self.path} cannot be replaced from here ({error.strerror}). Change it "
                "where it comes from: `flask keys new` makes a key, which goes into the first line; then run this "
                "command again"
            ) from None

    def take_out(self, key_ids: Collection[str]) -> list[Path]:
        """Move each of these keys into a file of its own, mode 0600, which is on disk before the key leaves this one.

        Returns those files. Raises `PermanentError`, and takes nothing out, when that cannot be done.
        """
        keys = self.read()
        taken = {key_id_of(key): key for key in keys.split() if key_id_of(key) in key_ids}
        try:
            for key_id, key in taken.items():
                copy = self.copy_of(key_id)
                if copy.exists() and copy.read_text(errors="replace").strip() != key:
                    raise PermanentError(f"{copy} holds something else than key {key_id}: move it away, then try again")
                self._put(copy, [key], 0o600)
            self._put(self.path, without(keys, set(key_ids)), self.path.stat().st_mode & 0o777)
        except OSError as error:
            raise PermanentError(
                f"KEY_ENCRYPTION_KEY_FILE: {self.path} cannot be replaced from here ({error.strerror}), so key "
                f"{', '.join(taken)} was left in it. Nothing here needs it, but backups of the database do: save its "
                "line where the backups' keys are, then take it out where the file comes from"
            ) from None
        return [self.copy_of(key_id) for key_id in taken]

    def copy_of(self, key_id: str) -> Path:
        """Where this key goes when it is taken out."""
        return self.path.with_name(f"{self.path.name}.{key_id}.old")

    def copies(self) -> list[Path]:
        """Keys that were taken out and are still beside the file."""
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.*.old"))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Only one program at a time; the lock ends with its process, however that ends."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_leftovers()
            yield
        except BlockingIOError:
            raise PermanentError(f"another `flask keys` is changing {self.path}: wait until it has ended") from None
        finally:
            os.close(folder)

    def _stamp(self) -> tuple[int, int, int]:
        status = self.path.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _put(self, path: Path, keys: Sequence[str], mode: int) -> None:
        """Write a file beside ours, for the same owner: under its name it is complete, and on disk on return."""
        owner = self.path.stat()
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{self.path.name}-")  # mode 0600
        try:
            with os.fdopen(handle, "w") as file:
                file.write("".join(f"{key}\n" for key in keys))
                os.fchmod(file.fileno(), mode)
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            self._sync_folder()
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _remove_leftovers(self) -> None:
        """What was being written when its program was killed: it holds keys, none of which is nowhere else."""
        if self.path.exists():
            for left in self.path.parent.glob(f".{glob.escape(self.path.name)}-*"):
                with suppress(OSError):
                    left.unlink()

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def without(keys: str, dropped: set[str]) -> list[str]:
    """The keys but those with these IDs, in their order."""
    return [key for key in keys.split() if key_id_of(key) not in dropped]
