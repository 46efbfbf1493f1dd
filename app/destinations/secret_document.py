"""Certificate and key as one document, for secret stores that hold fields."""

from __future__ import annotations

from typing import Any

from app.destinations.base import Bundle
from app.destinations.slots import version_text

# How often a delivery starts over within one attempt because another writer changed the secret meanwhile.
MAX_CONFLICTS = 10


def secret_document(bundle: Bundle) -> dict[str, Any]:
    """The fields of the secret. They include the private key: never log them."""
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
