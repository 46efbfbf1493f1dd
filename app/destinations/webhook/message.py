"""The message to a receiver and its signature (Standard Webhooks).

It contains the private key only if the receiver's public key is configured, and then as a JWE (RFC 7516) that only the
receiver can decrypt: not its load balancers, log files or queues.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from standardwebhooks import Webhook

from app.destinations.base import Bundle, DestinationRefusedError, Version
from app.destinations.credentials import read_credential

EVENT = "certificate.delivered"
JWE_ALGORITHMS = ("ECDH-ES+A256KW", "A256GCM")
_CURVES = {"P-256", "P-384", "P-521", "X25519", "X448"}

type PublicKey = ECKey | OKPKey


def message_id(destination: str, bundle: Bundle) -> str:
    """The same for every attempt to deliver this certificate to this destination; unique otherwise."""
    about = "\n".join((destination, bundle.slot, str(bundle.version.certificate_id), bundle.fingerprint))
    return f"msg_{hashlib.sha256(about.encode()).hexdigest()[:32]}"


def version_text(version: Version) -> str:
    """Greater for later certificates of a lineage, compared as text in any language."""
    return f"{version.not_before.astimezone(UTC):%Y%m%dT%H%M%SZ}-{version.certificate_id:019}"


def payload(bundle: Bundle, *, now: datetime, encrypt_to: PublicKey | None) -> str:
    """The body. Never contains the private key in clear."""
    leaf = x509.load_pem_x509_certificate(bundle.leaf_pem.encode())
    common_names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    data: dict[str, Any] = {
        "certificate_id": bundle.version.certificate_id,
        "lineage": bundle.slot,
        "version": version_text(bundle.version),
        # Some profiles have no common name.
        "common_name": str(common_names[0].value) if common_names else bundle.names[0],
        "names": list(bundle.names),
        "fingerprint": bundle.fingerprint,
        "serial": f"{leaf.serial_number:x}",
        "not_before": _iso(leaf.not_valid_before_utc),
        "not_after": _iso(leaf.not_valid_after_utc),
        "certificate": bundle.leaf_pem,
        "chain": bundle.chain_pem,
    }
    if encrypt_to is not None:
        algorithm, encryption = JWE_ALGORITHMS
        header = {"alg": algorithm, "enc": encryption, "kid": encrypt_to.kid or encrypt_to.thumbprint()}
        data["private_key_jwe"] = jwe.encrypt_compact(
            header, bundle.key.reveal().encode(), encrypt_to, algorithms=JWE_ALGORITHMS
        )
    return json.dumps({"type": EVENT, "timestamp": _iso(now), "data": data})


def signature_headers(secrets: Sequence[str], identifier: str, body: str, *, now: datetime) -> dict[str, str]:
    """The three headers of Standard Webhooks, with one signature for each secret."""
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(identifier, now, body) for secret in secrets),
    }


def read_secrets(path: Path, field: str) -> list[str]:
    """The signing secrets in a file, one per line. Raises `DestinationRefusedError`, which repeats none of them."""
    lines = [line.strip() for line in read_credential(path, field).splitlines()]
    secrets = [line for line in lines if line and not line.startswith("#")]
    if not secrets or not all(map(_is_secret, secrets)):
        raise DestinationRefusedError(
            f"{field}: {path} must have one secret per line, `whsec_` and 24 to 64 bytes in base64; create one with "
            '`echo "whsec_$(openssl rand -base64 32)"`'
        )
    return secrets


def _is_secret(text: str) -> bool:
    encoded = text.removeprefix("whsec_")
    try:
        secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return encoded != text and 24 <= len(secret) <= 64


def read_public_key(path: Path, field: str) -> PublicKey:
    """The receiver's public key, a JWK (RFC 7517) of an elliptic curve. Raises `DestinationRefusedError`."""
    try:
        found = json.loads(path.read_text())
        known = isinstance(found, dict) and found.get("crv") in _CURVES and "d" not in found
        key: PublicKey | None = None
        if known:
            key = ECKey.import_key(found) if found["kty"] == "EC" else OKPKey.import_key(found)
    except OSError as error:
        raise DestinationRefusedError(f"{field}: {path}: {error.strerror}") from None
    except (JoseError, ValueError, KeyError):
        key = None
    if key is None:
        raise DestinationRefusedError(
            f"{field}: {path} must be a public JWK of the curve X25519 or P-256, without the private part `d`"
        )
    return key


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
