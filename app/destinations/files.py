"""Certificates as files, where a server on this machine reads them.

    PATH/<slot>/current -> versions/20261123T183000Z-101967    the only thing that ever changes, by one rename
    PATH/<slot>/versions/20261123T183000Z-101967/{fullchain,privkey,cert,chain}.pem
    PATH/<slot>/{fullchain,privkey,cert,chain}.pem -> current/...    the names to put into a server's configuration

The slot itself is a real folder, so it can be mounted into a container and still follow the flip.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from app.destinations.base import (
    Bundle,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
    Receipt,
    Version,
)

# Lineage names are made by us from host names; this is the second lock on the same door.
_SAFE_SLOT = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,253}[a-z0-9])?")
_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"(\d{8}T\d{6}Z)-(\d+)")
_FILES = ("fullchain.pem", "privkey.pem", "cert.pem", "chain.pem")


class FilesConfig(DestinationConfig):
    """`[[destination]]` with `kind = "files"`."""

    kind: Literal["files"] = "files"
    name: str = Field("files", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Unique name of the destination.")
    path: Path = Field(description="Folder that holds one folder per lineage.")
    keep_versions: int = Field(3, ge=0, description="Previous versions kept beside the current one.")


class FilesDestination:
    """Writes versioned folders and flips one symbolic link."""

    Config = FilesConfig

    def __init__(self, config: FilesConfig) -> None:
        self._config = config
        self._root = config.path

    @property
    def config(self) -> FilesConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> Receipt:
        slot = self._folder(bundle.slot)
        try:
            (slot / "versions").mkdir(parents=True, exist_ok=True)
            _fsync_folder(self._root)
            with _locked(slot):
                return self._deliver(slot, bundle)
        except OSError as error:
            raise DestinationUnavailableError(
                f"{error.filename or slot}: {error.strerror or error}; check that the disk has room and that this "
                "process may write there"
            ) from error

    def current(self, slot: str) -> Version | None:
        return _current(self._folder(slot))

    def check(self) -> None:
        existing = next(parent for parent in (self._root, *self._root.absolute().parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise DestinationRefusedError(
                f"destination {self._config.name}: {existing} is not a folder that this process may write to"
            )

    def _deliver(self, slot: Path, bundle: Bundle) -> Receipt:
        held = _current(slot)
        if held is not None and held > bundle.version:
            return Receipt("superseded", f"{slot} holds certificate {held.certificate_id}, which is newer")
        version = slot / "versions" / _folder_name(bundle.version)
        _clear_leftovers(slot)
        if not _holds(version, bundle):
            _write_version(version, bundle)
        _flip(slot, version)
        self._drop_old(slot, version)
        return Receipt("delivered", str(slot))

    def _drop_old(self, slot: Path, current: Path) -> None:
        older = sorted(
            (path for path in (slot / "versions").iterdir() if _VERSION.fullmatch(path.name) and path != current),
            key=lambda path: _parse(path.name),
        )
        for path in older[: max(0, len(older) - self._config.keep_versions)]:
            shutil.rmtree(path)

    def _folder(self, slot: str) -> Path:
        if not _SAFE_SLOT.fullmatch(slot) or ".." in slot:
            raise DestinationRefusedError(f"{slot!r} cannot be the name of a folder")
        return self._root / slot


def _contents(bundle: Bundle) -> dict[str, str]:
    return {
        "fullchain.pem": bundle.fullchain_pem,
        "privkey.pem": bundle.key.reveal(),
        "cert.pem": bundle.leaf_pem,
        "chain.pem": bundle.chain_pem,
    }


def _holds(version: Path, bundle: Bundle) -> bool:
    try:
        return all((version / name).read_text() == text for name, text in _contents(bundle).items())
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _write_version(version: Path, bundle: Bundle) -> None:
    """Complete and on disk before it gets its name, so that a version that exists is whole."""
    temporary = Path(tempfile.mkdtemp(dir=version.parent, prefix=".new-"))
    try:
        for name, text in _contents(bundle).items():
            mode = 0o600 if name == "privkey.pem" else 0o644
            with os.fdopen(os.open(temporary / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        _fsync_folder(temporary)
        damaged = version.with_name(f".old-{version.name}")
        if version.exists():  # somebody changed it: what is whole takes its place
            version.rename(damaged)
        temporary.rename(version)
        shutil.rmtree(damaged, ignore_errors=True)
        _fsync_folder(version.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flip(slot: Path, version: Path) -> None:
    _link(slot / "current", f"versions/{version.name}")
    for name in _FILES:
        if not (slot / name).is_symlink():
            _link(slot / name, f"current/{name}")
    _fsync_folder(slot)


def _link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`; readers see the old one or the new one, never none."""
    temporary = path.with_name(f".{path.name}-new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _current(slot: Path) -> Version | None:
    try:
        return _parse((slot / "current").readlink().name)
    except (FileNotFoundError, ValueError):
        return None


def _folder_name(version: Version) -> str:
    return f"{version.not_before.astimezone(UTC).strftime(_TIME)}-{version.certificate_id}"


def _parse(name: str) -> Version:
    match = _VERSION.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return Version(datetime.strptime(match[1], _TIME).replace(tzinfo=UTC), int(match[2]))


def _clear_leftovers(slot: Path) -> None:
    """What a killed process left half-written; nobody else writes here while we hold the lock."""
    for leftover in (slot / "versions").glob(".*"):
        shutil.rmtree(leftover)


@contextmanager
def _locked(slot: Path) -> Iterator[None]:
    """One writer per slot on this machine; the kernel lets go of the lock when its process dies."""
    with (slot / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
