"""A slot on a host that is reached only by SFTP: complete versions, an atomic switch, never an older over a newer.

The layout is that of `app.destinations.files`. SFTP has no locks, and a lock would outlive its writer; it has renames,
which are atomic. So a writer that switches `current` first takes the *turn*:

    SLOT/.turn-V-R/V-R -> versions/V    made by the writer of version V, R random; then renamed to
    SLOT/.turn/V-R -> versions/V        which fails while another writer's is there
    SLOT/current -> versions/V          the link itself, renamed: the switch and the end of the turn in one step

Between the two renames `current` is read: while our link is in `.turn`, no other writer can switch. The turn of a dead
writer is ended by deleting its link; if that writer is alive after all, its own rename fails, and it starts over. So no
clock and no time limit decides which version becomes current.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import secrets
import stat
import time
from contextlib import suppress

from asyncssh import (
    FXF_CREAT,
    FXF_EXCL,
    FXF_WRITE,
    SFTPAttrs,
    SFTPClient,
    SFTPError,
    SFTPFailure,
    SFTPNoSuchFile,
    SFTPOpUnsupported,
)
from asyncssh.constants import FILEXFER_TYPE_DIRECTORY

from app.destinations.base import Bundle, DestinationUnavailableError, Version
from app.destinations.slots import check_slot, parse_version, version_text

FILES = ("fullchain.pem", "privkey.pem", "cert.pem", "chain.pem")
_LEFTOVER = re.compile(r"\.(?:turn|new|old|link)-(\d{8}T\d{6}Z-\d+)-[0-9a-f]+")
_MAX_BYTES = 1_000_000  # more than any certificate needs
_POLL_SECONDS = 0.1
_TRIES = 20


class RemoteSlot:
    """One slot, over an open SFTP session. `patience` is how many seconds a writer's turn may last."""

    def __init__(self, sftp: SFTPClient, root: str, slot: str, *, patience: float) -> None:
        self._sftp = sftp
        self._path = posixpath.join(root, check_slot(slot))
        self._patience = patience

    async def current(self) -> Version | None:
        """Which version `current` points to."""
        try:
            return parse_version(posixpath.basename(await self._sftp.readlink(self._at("current"))))
        except SFTPNoSuchFile:
            return None

    async def put(self, bundle: Bundle, *, keep: int) -> Version | None:
        """Make the bundle current and return None, or return the newer version that is current."""
        held = await self.current()
        if held is not None and held > bundle.version:
            return held
        mark = f"{version_text(bundle.version)}-{secrets.token_hex(4)}"
        await self._sftp.makedirs(self._at("versions"), SFTPAttrs(permissions=0o755), exist_ok=True)
        try:
            held = await self._put(bundle, mark)
        except (SFTPError, DestinationUnavailableError) as error:
            with suppress(SFTPError):  # best effort: the next delivery cleans up too
                for path in ((".turn", mark), (f".turn-{mark}",), ("versions", f".new-{mark}"), (f".link-{mark}",)):
                    await self._remove_tree(self._at(*path))
            if isinstance(error, SFTPNoSuchFile):  # a writer of a newer version deleted what was being written
                raise _overtaken(self._path) from None
            raise
        await self._delete_old(held or bundle.version, keep)
        await self._delete_leftovers(bundle.version)
        return held

    async def _put(self, bundle: Bundle, mark: str) -> Version | None:
        version = version_text(bundle.version)
        if not await self._holds(version, bundle):
            await self._write(version, mark, bundle)
        held = await self._switch(version, mark, bundle.version)
        if held is None:
            await self._link_files(mark)
        return held

    def _at(self, *names: str) -> str:
        return posixpath.join(self._path, *names)

    async def _holds(self, version: str, bundle: Bundle) -> bool:
        for name, text in contents(bundle).items():
            try:
                async with self._sftp.open(self._at("versions", version, name), "rb") as file:
                    held: object = await file.read(_MAX_BYTES)
                    if held != text.encode():
                        return False
            except SFTPNoSuchFile:
                return False
        return True

    async def _write(self, version: str, mark: str, bundle: Bundle) -> None:
        """Complete and on disk before it gets its name, so that an existing version is complete."""
        temporary = self._at("versions", f".new-{mark}")
        await self._sftp.mkdir(temporary, SFTPAttrs(permissions=0o700))
        for name, text in contents(bundle).items():
            mode = SFTPAttrs(permissions=0o600 if name == "privkey.pem" else 0o644)
            flags = FXF_WRITE | FXF_CREAT | FXF_EXCL
            async with self._sftp.open(posixpath.join(temporary, name), flags, mode, encoding=None) as file:
                await file.setstat(mode)  # regardless of the umask there
                await file.write(text.encode())
                with suppress(SFTPOpUnsupported):  # without it, the remote host decides when to sync
                    await file.fsync()
        # Servers run as other users; the private key in it is 0600 from its first byte.
        await self._sftp.chmod(temporary, 0o755)  # nosec B103
        named = self._at("versions", version)
        try:
            await self._sftp.posix_rename(temporary, named)
        except SFTPFailure:  # it exists: another writer was faster, or it was altered and is replaced
            if not await self._holds(version, bundle):
                await self._sftp.posix_rename(named, self._at("versions", f".old-{mark}"))
                await self._sftp.posix_rename(temporary, named)

    async def _switch(self, version: str, mark: str, ours: Version) -> Version | None:
        await self._take_turn(version, mark)
        held = await self.current()
        try:
            if held is not None and held > ours:
                await self._sftp.remove(self._at(".turn", mark))
                return held
            await self._sftp.posix_rename(self._at(".turn", mark), self._at("current"))
        except SFTPNoSuchFile:
            raise _overtaken(self._path) from None
        return None

    async def _take_turn(self, version: str, mark: str) -> None:
        waiting = self._at(f".turn-{mark}")
        await self._sftp.mkdir(waiting, SFTPAttrs(permissions=0o700))
        await self._sftp.symlink(f"versions/{version}", posixpath.join(waiting, mark))
        seen, since, failures = set[str](), time.monotonic(), 0
        while True:
            try:
                await self._sftp.posix_rename(waiting, self._at(".turn"))
            except SFTPNoSuchFile:  # another writer deleted it as a leftover
                raise _overtaken(self._path) from None
            except SFTPFailure:
                failures += 1
                others = await self._names(self._at(".turn"))
                if not others and failures > _TRIES:
                    raise
            else:
                return
            if others != seen:
                seen, since = others, time.monotonic()
            elif others and time.monotonic() - since >= self._patience:
                for other in others:
                    await self._remove(self._at(".turn", other))
                continue
            await asyncio.sleep(min(_POLL_SECONDS, self._patience))

    async def _link_files(self, mark: str) -> None:
        for name in FILES:
            try:
                if stat.S_ISLNK((await self._sftp.lstat(self._at(name))).permissions or 0):
                    continue
            except SFTPNoSuchFile:
                pass
            temporary = self._at(f".link-{mark}")
            await self._sftp.symlink(f"current/{name}", temporary)
            await self._sftp.posix_rename(temporary, self._at(name))

    async def _delete_old(self, current: Version, keep: int) -> None:
        found = map(parse_version, await self._names(self._at("versions")))
        older = sorted(version for version in found if version is not None and version < current)
        for version in older[: max(0, len(older) - keep)]:
            await self._remove_tree(self._at("versions", version_text(version)))

    async def _delete_leftovers(self, ours: Version) -> None:
        """Delete what killed writers left of this version and older ones; a live writer of an older one is too late."""
        for folder in ("", "versions"):
            for name in await self._names(self._at(folder)):
                match = _LEFTOVER.fullmatch(name)
                version = parse_version(match[1]) if match is not None else None
                if version is not None and version <= ours:
                    await self._remove_tree(self._at(folder, name))

    async def _names(self, path: str) -> set[str]:
        try:
            return {str(name) for name in await self._sftp.listdir(path)} - {".", ".."}
        except SFTPNoSuchFile:
            return set()

    async def _remove_tree(self, path: str) -> None:
        with suppress(SFTPNoSuchFile):  # another writer was faster
            found = await self._sftp.lstat(path)
            if found.type != FILEXFER_TYPE_DIRECTORY:
                await self._sftp.remove(path)
                return
            for tries in range(1, _TRIES + 1):
                for name in await self._names(path):
                    await self._remove(posixpath.join(path, name))
                try:
                    await self._sftp.rmdir(path)
                except SFTPFailure:  # its writer is alive and has added a file
                    if tries == _TRIES:
                        raise
                else:
                    return

    async def _remove(self, path: str) -> None:
        with suppress(SFTPNoSuchFile):
            await self._sftp.remove(path)


def contents(bundle: Bundle) -> dict[str, str]:
    """The files of a version."""
    return {
        "fullchain.pem": bundle.fullchain_pem,
        "privkey.pem": bundle.key.reveal(),
        "cert.pem": bundle.leaf_pem,
        "chain.pem": bundle.chain_pem,
    }


def _overtaken(path: str) -> DestinationUnavailableError:
    return DestinationUnavailableError(f"{path}: another writer took the turn; retrying", retry_after=1.0)
