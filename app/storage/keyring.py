"""Where the key-encryption keys come from, and which of them the whole installation seals under.

Which one that is stands in the database, so that hosts whose files differ for a while agree, and so that a key is
dropped only when nothing can be sealed under it any more.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import PermanentError
from app.storage.models import Fact
from app.storage.sealing import Sealer, key_id_of
from app.storage.secret_files import read_or_create, read_secret

KEY_FACT = "key_encryption_key_id"


def sealing_key_id(session: Session) -> str | None:
    """The ID of the key to seal under in this transaction, which cannot be replaced before it ends.

    None before the first process has started. What is sealed must be committed in the same transaction.
    """
    return session.scalar(select(Fact.value).where(Fact.name == KEY_FACT).with_for_update(read=True))


class KeyFile:
    """A file with one key-encryption key a line, the one to seal under first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> str:
        """The keys; a missing file is made with a fresh one."""
        keys = read_or_create(self.path, Sealer.new_key)
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
        status = self.path.stat()
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        except OSError as error:
            raise self._not_writable(error) from None
        try:
            with os.fdopen(handle, "w") as file:
                file.write("".join(f"{key}\n" for key in keys))
                os.fchmod(file.fileno(), status.st_mode & 0o777)
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
            self._sync_folder()
        except OSError as error:
            Path(temporary).unlink(missing_ok=True)
            raise self._not_writable(error) from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Only one program at a time; the lock ends with its process, however that ends."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise PermanentError(f"another `flask keys` is changing {self.path}: wait until it has ended") from None
        finally:
            os.close(folder)

    def _stamp(self) -> tuple[int, int, int]:
        status = self.path.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _not_writable(self, error: OSError) -> PermanentError:
        return PermanentError(
            f"KEY_ENCRYPTION_KEY_FILE: {self.path} cannot be replaced from here ({error.strerror}). Change it where it "
            "comes from: `flask keys new` makes a key, which goes into the first line; then run this command again"
        )


def without(keys: str, dropped: set[str]) -> list[str]:
    """The keys but those with these IDs, in their order."""
    return [key for key in keys.split() if key_id_of(key) not in dropped]
