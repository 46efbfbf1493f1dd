"""Names of slots and of versions, in paths and in the names of secrets."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator

from app.destinations.base import DestinationRefusedError, Version

# Lineage names are made from validated host names; this is a second check.
_SAFE_SLOT = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,253}[a-z0-9])?")
_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"(\d{8}T\d{6}Z)-(\d{1,20})")


def check_slot(slot: str) -> str:
    """The slot, if it is safe as part of a path or a name. Raises `DestinationRefusedError`."""
    if not _SAFE_SLOT.fullmatch(slot) or ".." in slot:
        raise DestinationRefusedError(f"{slot!r} is not a safe name for a slot")
    return slot


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


def _template(text: str) -> str:
    if text.count("{slot}") != 1 or set("{}") & set(text.replace("{slot}", "")):
        raise ValueError(
            "must contain {slot} exactly once, which is replaced by the lineage's name, and no other braces"
        )
    return text


SlotTemplate = Annotated[str, AfterValidator(_template)]


def fill(template: str, slot: str) -> str:
    """The template with the slot inserted. Raises `DestinationRefusedError` if the slot is not a safe name."""
    return template.replace("{slot}", check_slot(slot))
