"""Owner, group and mode of files and folders; a private key is never readable for others before its final mode."""

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
    """Owner, group and modes of files and folders. `uid` and `gid` are `UNCHANGED` if not configured."""

    uid: int = UNCHANGED
    gid: int = UNCHANGED
    key_mode: int = 0o600
    public_mode: int = 0o644
    folder_mode: int = 0o755

    @classmethod
    def of(
        cls, owner: str | None, group: str | None, *, key_mode: int, public_mode: int, folder_mode: int
    ) -> Ownership:
        """From names or numbers. Raises `LookupError`, which names what this host does not know."""
        return cls(_uid(owner), _gid(group), key_mode, public_mode, folder_mode)

    def give(self, path: Path, mode: int) -> None:
        """Apply owner, group and mode, if they differ. In between, no one has more access than before or after."""
        now = path.stat()
        is_owned = (self.uid in {UNCHANGED, now.st_uid}) and (self.gid in {UNCHANGED, now.st_gid})
        if not is_owned:
            path.chmod(stat.S_IMODE(now.st_mode) & mode)
            os.chown(path, self.uid, self.gid)
        if not is_owned or stat.S_IMODE(now.st_mode) != mode:
            path.chmod(mode)

    def of_folders(self) -> Ownership:
        """The same for the folders of versions: they stay owned by the worker, so that no other user can place links
        there, and others may pass through them.
        """
        if self.uid == UNCHANGED:
            return self
        return replace(self, uid=os.geteuid(), folder_mode=self.folder_mode | 0o111)

    def check(self) -> None:
        """Raise `PermissionError` if this process may not set that owner and group. Does not access the disk."""
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
        raise LookupError(f"owner: no user is named {owner!r} on this host; create it or name another") from None


def _gid(group: str | None) -> int:
    if group is None or group.isdigit():
        return UNCHANGED if group is None else int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise LookupError(f"group: no group is named {group!r} on this host; create it or name another") from None
