"""Owner, group and mode of what is written, so that a private key is never readable before its final mode."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass, replace
from pathlib import Path

UNCHANGED = -1


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns files and folders, and who may read them. `uid` and `gid` are `UNCHANGED` where nobody was named."""

    uid: int = UNCHANGED
    gid: int = UNCHANGED
    key_mode: int = 0o600
    public_mode: int = 0o644
    folder_mode: int = 0o755

    @classmethod
    def of(
        cls, owner: str | None, group: str | None, *, key_mode: int, public_mode: int, folder_mode: int
    ) -> Ownership:
        """Names or numbers. Raises `LookupError` that says which name this machine does not know."""
        return cls(_uid(owner), _gid(group), key_mode, public_mode, folder_mode)

    def give(self, path: Path, mode: int) -> None:
        """Make a file or folder so, if it is not yet. On the way nobody may more than at either end."""
        now = path.stat()
        is_so = (self.uid in {UNCHANGED, now.st_uid}) and (self.gid in {UNCHANGED, now.st_gid})
        if not is_so:
            path.chmod(stat.S_IMODE(now.st_mode) & mode)
            os.chown(path, self.uid, self.gid)
        if not is_so or stat.S_IMODE(now.st_mode) != mode:
            path.chmod(mode)

    def of_folders(self) -> Ownership:
        """The same for the folders that versions lie in: their owner stays who writes there, so that nobody else can
        put a link in his way, and others may pass through to what is theirs.
        """
        if self.uid == UNCHANGED:
            return self
        return replace(self, uid=os.geteuid(), folder_mode=self.folder_mode | 0o111)

    def check(self) -> None:
        """Raise `PermissionError` if this process may not give files to that owner and group. Touches no disk."""
        if (self.uid, self.gid) != (UNCHANGED, UNCHANGED):
            handle = os.memfd_create("certcourier-check")
            try:
                os.fchown(handle, self.uid, self.gid)
            finally:
                os.close(handle)


def _uid(owner: str | None) -> int:
    if owner is None or owner.isdigit():
        return UNCHANGED if owner is None else int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise LookupError(f"owner: this machine knows no user {owner!r}; create it or name another") from None


def _gid(group: str | None) -> int:
    if group is None or group.isdigit():
        return UNCHANGED if group is None else int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise LookupError(f"group: this machine knows no group {group!r}; create it or name another") from None
