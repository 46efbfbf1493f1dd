"""Encryption at rest: AES-256-GCM with a key-encryption key that is kept apart from the database.

A ciphertext is bound to its owner, the row that it is stored in, and decrypts for no other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import PermanentError, RetryableError

_VERSION = b"\x01"
_KEY_BYTES = 32
_ID_BYTES = 8
_NONCE_BYTES = 12
_HEADER_BYTES = len(_VERSION) + _ID_BYTES


class DecryptionError(PermanentError):
    """The ciphertext was altered, or moved from another row."""


class KeyNotHeldError(RetryableError):
    """This process does not hold the key-encryption key; another host may, or it may be restored."""


def key_id_of(key_encryption_key: str) -> str:
    """The ID of a key-encryption key, which reveals nothing about it. Raises `PermanentError` if it is not a key."""
    return _key_id(_decode(key_encryption_key))


def key_id_of_ciphertext(encrypted: bytes) -> str:
    """The ID of the key-encryption key that the ciphertext was encrypted with."""
    return encrypted[len(_VERSION) : _HEADER_BYTES].hex()


class Encryptor:
    """Encrypts and decrypts secrets. Layout: version (1 byte), key ID (8), nonce (12), ciphertext and tag.

    Holds one or more key-encryption keys and decrypts with all of them: during a rotation, the new one and the old
    one. Thread-safe. Used only by `PrivateKeyStore` and `WebhookSecrets`.
    """

    def __init__(self, keys: str, *, reread: Callable[[], str | None] | None = None) -> None:
        """`keys`: each 32 bytes as base64, separated by white space; the first one encrypts by default.

        `reread` returns the keys if they have changed since the last call, or None; it is called when a key is
        needed that is not held. Raises `PermanentError` if they are not keys.
        """
        self._reread = reread
        self._held = _parse(keys)

    @staticmethod
    def new_key() -> str:
        """A new key-encryption key as base64."""
        return base64.b64encode(os.urandom(_KEY_BYTES)).decode()

    @property
    def key_id(self) -> str:
        """The ID of the first key."""
        return next(iter(self._held))

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The IDs of all keys that are held, the first one first."""
        return tuple(self._held)

    def refresh(self) -> None:
        """Read keys that were added or removed meanwhile. A file that cannot be read now changes nothing."""
        if self._reread is None:
            return
        try:
            keys = self._reread()
            if keys is not None:
                self._held = _parse(keys)
        except (PermanentError, OSError):
            return  # half copied, or unavailable for a moment: the held keys stay valid

    def holds(self, key_id: str) -> bool:
        """Whether this process can decrypt with this key."""
        if key_id not in self._held:
            self.refresh()
        return key_id in self._held

    def encrypt(self, owner: str, secret: str, *, key_id: str | None = None) -> bytes:
        """Encrypt a secret for the row that `owner` names, by default with the first key. Raises `KeyNotHeldError`."""
        key_id = key_id or self.key_id
        header = _VERSION + bytes.fromhex(key_id)
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._aead(key_id, owner).encrypt(nonce, secret.encode(), header + owner.encode())

    def decrypt(self, owner: str, encrypted: bytes) -> str:
        """The secret in clear. Raises `DecryptionError` or `KeyNotHeldError`."""
        header, rest = encrypted[:_HEADER_BYTES], encrypted[_HEADER_BYTES:]
        if len(header) < _HEADER_BYTES or not header.startswith(_VERSION):
            raise DecryptionError(f"the ciphertext of {owner} has a format that this version does not know")
        aead = self._aead(key_id_of_ciphertext(encrypted), owner)
        try:
            return aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + owner.encode()).decode()
        except (InvalidTag, ValueError):  # ValueError: too short to have a nonce
            raise DecryptionError(f"the ciphertext of {owner} was altered or belongs to another row") from None

    def _aead(self, key_id: str, owner: str) -> AESGCM:
        if not self.holds(key_id):
            raise KeyNotHeldError(
                f"{owner} is encrypted with key {key_id}, which this process does not hold "
                f"(held: {', '.join(self._held)}): restore it, see `certcourier keys status`"
            )
        return self._held[key_id]


def _parse(keys: str) -> Mapping[str, AESGCM]:
    decoded = [_decode(text) for text in keys.split()]
    if not decoded:
        _decode("")
    return {_key_id(key): AESGCM(key) for key in decoded}


def _decode(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise PermanentError("the key-encryption key must be 32 random bytes, written as base64")
    return key


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"certcourier key id" + key).digest()[:_ID_BYTES].hex()
