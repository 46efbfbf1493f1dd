"""What destinations in other systems share: versions as text, names made from slots, secrets of logins."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from app.destinations.base import Bundle, DestinationRefusedError, Version
from app.destinations.key_files import read_private_file

# Lineage names are made by us from host names; this is the second lock on the same door.
_SAFE_SLOT = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,253}[a-z0-9])?")
_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"(\d{8}T\d{6}Z)-(\d{1,20})")

# How often a delivery starts again because somebody else wrote to the slot meanwhile, before it is put off.
MOST_RACES = 10


def version_text(version: Version) -> str:
    """`20261123T183000Z-101967`: notBefore, then DNSimple's ID."""
    return f"{version.not_before.astimezone(UTC).strftime(_TIME)}-{version.certificate_id}"


def parse_version(text: object) -> Version | None:
    """The version that `version_text` wrote, or None for anything else."""
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    try:
        return Version(datetime.strptime(match[1], _TIME).replace(tzinfo=UTC), int(match[2]))
    except ValueError:
        return None


def secret_document(bundle: Bundle) -> dict[str, Any]:
    """Certificate and key as the fields of one secret, for stores that hold fields. Holds the key: never log it."""
    return {
        "certificate": bundle.leaf_pem,
        "chain": bundle.chain_pem,
        "fullchain": bundle.fullchain_pem,
        "private_key": bundle.key.reveal(),
        "names": list(bundle.names),
        "fingerprint": bundle.fingerprint,
        "lineage": bundle.slot,
        "version": version_text(bundle.version),
    }


def _template(text: str) -> str:
    if text.count("{slot}") != 1 or set("{}") & set(text.replace("{slot}", "")):
        raise ValueError("must hold {slot} once, which stands for the lineage's name, and no other braces")
    return text


SlotTemplate = Annotated[str, AfterValidator(_template)]


def fill(template: str, slot: str) -> str:
    """The template with the slot in its place. Raises `DestinationRefusedError` for what is no lineage's name."""
    if not _SAFE_SLOT.fullmatch(slot) or ".." in slot:
        raise DestinationRefusedError(f"{slot!r} cannot be part of a name")
    return template.replace("{slot}", slot)


def read_login(destination: str, field: str, path: Path) -> str:
    """The secret of a login, from its file. Raises `DestinationRefusedError` that names the field."""
    return read_private_file(path, f"destination {destination}: {field}")
