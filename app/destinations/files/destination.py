"""Certificates as files, for servers on this host.

    PATH/<slot>/current -> versions/20261123T183000Z-101967    replaced atomically, by one rename
    PATH/<slot>/versions/20261123T183000Z-101967/{fullchain,privkey,cert,chain}.pem
    PATH/<slot>/{fullchain,privkey,cert,chain}.pem -> current/...    the names to put into a server's configuration

This is the layout `separate`; the others (`app.destinations.files.layouts`) differ in the files of a version and in the
links to them. The slot is a real folder, so that it can be mounted into a container and still follows the switch.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from app.atomic_files import replace_file, replace_link, sync_folder, write_file
from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
    Version,
)
from app.destinations.files.layouts import HAProxy, Layout, Pkcs12, Separate, Traefik
from app.destinations.files.ownership import Ownership
from app.destinations.slots import check_slot, parse_version, version_text

_MAY_WRITE = (
    "give this process write permission there; if `owner` or `group` is set, run the worker as root, or as that user "
    "and as a member of that group"
)
_MAY_GIVE = (
    "owner, group: this process may not set them; run the worker as root, or as that user and as a member of that group"
)


def _octal(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError('must be three or four octal digits in quotation marks, such as "0640"')
    return text


def _private(text: str) -> str:
    if int(_octal(text), 8) & 0o007:
        raise ValueError("would make private keys readable for everyone; use a mode for a group, such as 0640")
    return text


class FilesConfig(DestinationConfig):
    """`[[destination]]` with `kind = "files"`."""

    kind: Literal["files"] = "files"
    name: str = Field("files", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Unique name of the destination.")
    path: Path = Field(description="Folder that holds one folder per lineage.")
    layout: Literal["separate", "haproxy", "traefik", "pkcs12"] = Field(
        "separate", description="Layout of the files: `separate`, `haproxy`, `traefik` or `pkcs12`."
    )
    keep_versions: int = Field(3, ge=0, description="Previous versions kept beside the current one.")
    owner: str | None = Field(None, description="Owner of files and folders. Default: the worker's user.")
    group: str | None = Field(None, description="Group of files and folders. Default: the worker's group.")
    mode: Annotated[str, AfterValidator(_private)] = Field("0600", description="Mode of files that hold a private key.")
    public_mode: Annotated[str, AfterValidator(_octal)] = Field("0644", description="Mode of all other files.")
    folder_mode: Annotated[str, AfterValidator(_octal)] = Field("0755", description="Mode of the lineages' folders.")
    password_file: Path | None = Field(
        None, description="`pkcs12`: file with the keystore's password in its first line, mode 0600."
    )
    traefik_path: Path | None = Field(
        None, description="`traefik`: `path` as Traefik sees it, if different, for example in a container."
    )

    @model_validator(mode="after")
    def _fields_of_the_layout(self) -> Self:
        if (self.password_file is not None) != (self.layout == "pkcs12"):
            raise ValueError('password_file: required for layout = "pkcs12", and only for it')
        if self.traefik_path is not None and self.layout != "traefik":
            raise ValueError('traefik_path: only for layout = "traefik"')
        return self


class FilesDestination:
    """Writes versioned folders and switches one symbolic link."""

    Config = FilesConfig

    def __init__(self, config: FilesConfig) -> None:
        self._config = config
        self._root = config.path
        self._layout = _layout(config)

    @property
    def config(self) -> FilesConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        slot = self._folder(bundle.slot)
        try:
            ownership = self._ownership()
            self._make_folders(slot, ownership)
            with _locked(slot):
                return self._deliver(slot, bundle, ownership)
        except LookupError as error:
            raise DestinationUnavailableError(str(error)) from None
        except PermissionError as error:
            raise DestinationUnavailableError(f"{error.filename or slot}: {error.strerror}; {_MAY_WRITE}") from error
        except OSError as error:
            raise DestinationUnavailableError(
                f"{error.filename or slot}: {error.strerror or error}; check that the disk has room and that this "
                "process may write there"
            ) from error

    def places(self, slot: str) -> Mapping[str, Path]:
        """The slot's paths: `folder`, and each file by its name without extension."""
        folder = self._folder(slot)
        files = {Path(target).stem: path for path, target in self._layout.links(folder).items()}
        return {"folder": folder} | files

    def check(self) -> None:
        existing = next(parent for parent in (self._root, *self._root.absolute().parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise self._refused(f"{existing} is not a folder that this process can write to")
        try:
            self._ownership().check()
            if isinstance(self._layout, Pkcs12):
                self._layout.password()
        except PermissionError:
            raise self._refused(_MAY_GIVE) from None
        except (LookupError, DestinationUnavailableError) as error:
            raise self._refused(str(error)) from None

    def _refused(self, what: str) -> DestinationRefusedError:
        return DestinationRefusedError(f"destination {self._config.name}: {what}")

    def _ownership(self) -> Ownership:
        modes = {name: int(getattr(self._config, name), 8) for name in ("public_mode", "folder_mode")}
        return Ownership.of(self._config.owner, self._config.group, key_mode=int(self._config.mode, 8), **modes)

    def _make_folders(self, slot: Path, ownership: Ownership) -> None:
        own = ownership.of_folders()
        for folder in (self._root, slot, slot / "versions"):
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink() and folder != self._root:
                raise DestinationRefusedError(
                    f"{folder} is a link that Certcourier did not create: remove it, then retry"
                )
            if made or folder != self._root:  # a folder that existed before is the operator's
                own.give(folder, own.folder_mode)
        sync_folder(self._root)

    def _deliver(self, slot: Path, bundle: Bundle, ownership: Ownership) -> DeliveryResult:
        held = _current(slot)
        if held is not None and held > bundle.version:
            return DeliveryResult("superseded", f"{slot} holds the newer certificate {held.certificate_id}")
        version = slot / "versions" / version_text(bundle.version)
        _clear_leftovers(slot)
        if not self._holds(version, bundle):
            _write_version(version, self._layout.render(bundle), self._layout.files, ownership)
        else:
            _give_version(version, self._layout.files, ownership)
        self._switch(slot, version, ownership)
        self._delete_old(slot, version)
        return DeliveryResult("delivered", str(slot))

    def _holds(self, version: Path, bundle: Bundle) -> bool:
        try:
            found = {name: (version / name).read_bytes() for name in self._layout.files}
        except FileNotFoundError:
            return False
        return self._layout.holds(found, bundle)

    def _switch(self, slot: Path, version: Path, ownership: Ownership) -> None:
        replace_link(slot / "current", f"versions/{version.name}")
        for path, target in self._layout.links(slot).items():
            if not path.is_symlink():
                replace_link(path, target)
        announcement = self._layout.announcement(slot, version)
        if announcement is not None:
            file, data = announcement
            if not file.is_file() or file.read_bytes() != data:
                replace_file(file, data, lambda path: ownership.give(path, ownership.public_mode))
        sync_folder(slot)
        sync_folder(self._root)

    def _delete_old(self, slot: Path, current: Path) -> None:
        found = ((parse_version(path.name), path) for path in (slot / "versions").iterdir() if path != current)
        older = [path for _, path in sorted((version, path) for version, path in found if version is not None)]
        for path in older[: max(0, len(older) - self._config.keep_versions)]:
            shutil.rmtree(path)

    def _folder(self, slot: str) -> Path:
        return self._root / check_slot(slot)


def _layout(config: FilesConfig) -> Layout:
    match config.layout:
        case "haproxy":
            return HAProxy()
        case "traefik":
            return Traefik(config.traefik_path or config.path.absolute())
        case "pkcs12":
            assert config.password_file is not None  # noqa: S101, ensured by the configuration's validator
            return Pkcs12(config.password_file)
        case _:
            return Separate()


def _write_version(version: Path, contents: Mapping[str, bytes], secret: Mapping[str, bool], own: Ownership) -> None:
    """Complete and on disk before it gets its name, so that an existing version is complete."""
    temporary = Path(tempfile.mkdtemp(dir=version.parent, prefix=".new-"))
    try:
        for name, data in contents.items():
            mode = own.key_mode if secret[name] else own.public_mode
            write_file(temporary / name, data, partial(own.give, mode=mode))
        own.give(temporary, own.folder_mode)
        sync_folder(temporary)
        damaged = version.with_name(f".old-{version.name}")
        if version.exists():  # it was altered: replace it
            version.rename(damaged)
        temporary.rename(version)
        shutil.rmtree(damaged, ignore_errors=True)
        sync_folder(version.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _give_version(version: Path, secret: Mapping[str, bool], own: Ownership) -> None:
    """Apply the configured owner and modes to a version that was written with another configuration."""
    for name, is_secret in secret.items():
        own.give(version / name, own.key_mode if is_secret else own.public_mode)
    own.give(version, own.folder_mode)


def _current(slot: Path) -> Version | None:
    try:
        return parse_version((slot / "current").readlink().name)
    except FileNotFoundError:
        return None


def _clear_leftovers(slot: Path) -> None:
    """Delete what a killed process left; no other process writes here while the lock is held."""
    for leftover in (slot / "versions").glob(".*"):
        shutil.rmtree(leftover)


@contextmanager
def _locked(slot: Path) -> Iterator[None]:
    """One writer per slot on this host; the kernel releases the lock when its process ends."""
    # Nothing is written to it and no link is followed: others may be able to write in the slot.
    file = os.open(slot / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
