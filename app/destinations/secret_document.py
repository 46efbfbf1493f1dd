"""What destinations in other systems share: names made from slots, secrets of logins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from app.destinations.base import Bundle
from app.destinations.private_files import read_private_file
from app.destinations.slots import check_slot, version_text

# How often a delivery starts again because somebody else wrote to the slot meanwhile, before it is put off.
MOST_RACES = 10


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
    return template.replace("{slot}", check_slot(slot))


def read_login(destination: str, field: str, path: Path) -> str:
    """The secret of a login, from its file. Raises `DestinationRefusedError` that names the field."""
    return read_private_file(path, f"destination {destination}: {field}")
