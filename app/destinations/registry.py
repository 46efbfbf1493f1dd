"""The configured destinations, read from the destinations file and checked at startup."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from pydantic import ValidationError

from app.destinations.base import Destination, DestinationKind, DestinationRefusedError
from app.destinations.entry_errors import explain_entry
from app.destinations.files.destination import FilesConfig, FilesDestination

# Loaded when the destinations file names them: their libraries are large.
KINDS = {
    "files": "app.destinations.files.destination:FilesDestination",
    "ssh": "app.destinations.ssh.destination:SshDestination",
    "webhook": "app.destinations.webhook.destination:WebhookDestination",
    "command": "app.destinations.command:CommandDestination",
    "vault": "app.destinations.vault:VaultDestination",
    "kubernetes": "app.destinations.kubernetes:KubernetesDestination",
    "aws-acm": "app.destinations.aws.acm:AcmDestination",
    "aws-secrets": "app.destinations.aws.secrets_manager:SecretsManagerDestination",
}
ENTRY_POINTS = "certcourier.destinations"


def load_destinations(file: Path | None, *, data_dir: Path) -> Mapping[str, Destination]:
    """Destinations by name. Without a file: one of kind `files`, in `certificates` below `data_dir`.

    Relative paths in the file are relative to the working directory. Raises `DestinationRefusedError`, which names the
    file, the entry and the field.
    """
    if file is None:
        return {"files": FilesDestination(FilesConfig(path=data_dir / "certificates"))}
    try:
        document = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DestinationRefusedError(f"{file}: {error}") from None
    unknown = set(document) - {"destination", "endpoint"}
    if unknown:
        raise DestinationRefusedError(
            f"{file}: unknown {', '.join(sorted(unknown))}; only [[destination]] and [[endpoint]] tables are allowed"
        )
    destinations: dict[str, Destination] = {}
    for number, entry in enumerate(document.get("destination", []), start=1):
        destination = _build(file, number, entry)
        if destination.config.name in destinations:
            raise DestinationRefusedError(f"{file}: two destinations are named {destination.config.name!r}")
        destinations[destination.config.name] = destination
    if not destinations:
        raise DestinationRefusedError(f"{file}: no destination is configured; add a [[destination]] table")
    _check_paths(file, destinations)
    _check_order(file, destinations)
    return destinations


def _check_paths(file: Path, destinations: Mapping[str, Destination]) -> None:
    """Two destinations in one folder would replace each other's versions."""
    paths: dict[Path, str] = {}
    for destination in destinations.values():
        if isinstance(destination, FilesDestination):
            name, path = destination.config.name, destination.config.path.resolve()
            if path in paths:
                raise DestinationRefusedError(f"{file}: destinations {paths[path]!r} and {name!r} have the same path")
            paths[path] = name


def _check_order(file: Path, destinations: Mapping[str, Destination]) -> None:
    """Destinations in `after` must exist and must not depend on each other in a circle."""
    settled: set[str] = set()
    for destination in destinations.values():
        for name in destination.config.after:
            if name not in destinations:
                raise DestinationRefusedError(
                    f"{file}: destination {destination.config.name!r}: after: no destination is named {name!r}"
                )
    while waiting := [name for name in destinations if name not in settled]:
        ready = {name for name in waiting if settled.issuperset(destinations[name].config.after)}
        if not ready:
            raise DestinationRefusedError(
                f"{file}: after: these destinations depend on each other: {', '.join(waiting)}"
            )
        settled |= ready


def all_kinds() -> dict[str, EntryPoint]:
    """Classes by kind: built-in ones, and those of installed packages (entry points `certcourier.destinations`)."""
    ours = {kind: EntryPoint(kind, path, ENTRY_POINTS) for kind, path in KINDS.items()}
    return {found.name: found for found in entry_points(group=ENTRY_POINTS)} | ours


def _build(file: Path, number: int, entry: object) -> Destination:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    kinds = all_kinds()
    if kind not in kinds:
        raise DestinationRefusedError(f"{file}: destination {number}: kind must be one of {', '.join(kinds)}")
    destination: DestinationKind = kinds[kind].load()
    try:
        return destination(destination.Config.model_validate(entry))
    except ValidationError as error:
        problems = explain_entry(error, destination.Config.model_fields)
        raise DestinationRefusedError(f"{file}: destination {number}: {problems}") from None
