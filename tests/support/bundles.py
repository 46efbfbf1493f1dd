"""Bundles for destinations: placeholder texts, or certificates of a test authority; and the files made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from app.crypto.private_key import PrivateKey
from app.destinations.base import (
    Bundle,
    Version,
)
from tests.support.x509 import Authority

AUTHORITY = Authority()
FIRST = datetime(2026, 11, 1, 12, tzinfo=UTC)


def bundle(number: int, slot: str = "www.example.com") -> Bundle:
    return Bundle(
        slot=slot,
        version=Version(FIRST + timedelta(days=number), 1000 + number),
        names=("www.example.com",),
        fingerprint=f"{number:064x}",
        leaf_pem=f"leaf {number}\n",
        chain_pem=f"chain {number}\n",
        key=PrivateKey(f"key {number}\n"),
    )


def pem_files(slot: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in slot.glob("*.pem")}


def expected_pem_files(number: int) -> dict[str, str]:
    leaf, chain = f"leaf {number}\n", f"chain {number}\n"
    return {"fullchain.pem": leaf + chain, "privkey.pem": f"key {number}\n", "cert.pem": leaf, "chain.pem": chain}


def issued_bundle(number: int, slot: str = "www.example.com") -> Bundle:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=60) + timedelta(days=number)
    issued = AUTHORITY.issue(slot, "example.com", start=start)
    return Bundle(
        slot=slot,
        version=Version(start, 1000 + number),
        names=(slot, "example.com"),
        fingerprint=x509.load_pem_x509_certificate(issued.leaf.encode()).fingerprint(hashes.SHA256()).hex(),
        leaf_pem=issued.leaf,
        chain_pem="".join(issued.chain),
        key=PrivateKey(issued.key),
    )
