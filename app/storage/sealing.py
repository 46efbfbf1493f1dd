"""Private keys at rest: AES-256-GCM under a key-encryption key that is kept apart from the database.

A sealed key is bound to its certificate's ID, so it opens in no other row.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import PermanentError

_VERSION = b"\x01"
_KEY_BYTES = 32
_ID_BYTES = 8
_NONCE_BYTES = 12


class SealBrokenError(PermanentError):
    """A sealed key that this key-encryption key does not open, or that was altered or moved."""


class Sealer:
    """Seals and opens private keys. Layout: version (1 byte), key ID (8), nonce (12), ciphertext and tag."""

    def __init__(self, key_encryption_key: str) -> None:
        """`key_encryption_key`: 32 bytes as base64. Raises `PermanentError` if it is not that."""
        try:
            key = base64.b64decode(key_encryption_key, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise PermanentError("the key-encryption key must be 32 random bytes, written as base64")
        self._aead = AESGCM(key)
        self.key_id = hashlib.sha256(b"certcourier key id" + key).digest()[:_ID_BYTES].hex()

    @staticmethod
    def new_key() -> str:
        """A fresh key-encryption key as base64."""
        return base64.b64encode(os.urandom(_KEY_BYTES)).decode()

    def seal(self, private_key_pem: str, *, certificate_id: int) -> bytes:
        """Encrypt a PEM for the row of this certificate."""
        nonce = os.urandom(_NONCE_BYTES)
        header = _VERSION + bytes.fromhex(self.key_id)
        sealed = self._aead.encrypt(nonce, private_key_pem.encode(), self._bound_to(header, certificate_id))
        return header + nonce + sealed

    def open(self, sealed: bytes, *, certificate_id: int) -> str:
        """The PEM again. Raises `SealBrokenError`."""
        header, rest = sealed[: 1 + _ID_BYTES], sealed[1 + _ID_BYTES :]
        if header != _VERSION + bytes.fromhex(self.key_id):
            raise SealBrokenError(
                f"the private key of certificate {certificate_id} was sealed under another key-encryption key "
                f"than {self.key_id}: restore that key's file"
            )
        try:
            pem = self._aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], self._bound_to(header, certificate_id))
        except InvalidTag:
            raise SealBrokenError(
                f"the sealed private key of certificate {certificate_id} was altered or belongs to another one"
            ) from None
        return pem.decode()

    @staticmethod
    def _bound_to(header: bytes, certificate_id: int) -> bytes:
        return header + f"certificate:{certificate_id}".encode()
