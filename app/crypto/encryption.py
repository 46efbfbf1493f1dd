"""Private keys at rest: AES-256-GCM under a key-encryption key that is kept apart from the database.

A sealed key is bound to its certificate's ID, so it opens in no other row.
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
    """What was sealed was altered, or moved from another row."""


class KeyNotHeldError(RetryableError):
    """This process does not hold the key-encryption key that is needed; another host may, or it is put back."""


def key_id_of(key_encryption_key: str) -> str:
    """A name for a key-encryption key that does not tell it. Raises `PermanentError` if it is none."""
    return _key_id(_decode(key_encryption_key))


def key_id_of_ciphertext(encrypted: bytes) -> str:
    """The ID of the key-encryption key that something was sealed under."""
    return encrypted[len(_VERSION) : _HEADER_BYTES].hex()


class Encryptor:
    """Seals and opens private keys. Layout: version (1 byte), key ID (8), nonce (12), ciphertext and tag.

    It holds one or more key-encryption keys and opens under all of them; during a rotation that is the new one and the
    old one. Safe for many threads.
    """

    def __init__(self, keys: str, *, reread: Callable[[], str | None] | None = None) -> None:
        """`keys`: each 32 bytes as base64, apart by white space; the first is the one to seal under.

        `reread` returns the keys anew if they have changed since the last time, or None; it is asked when a key is
        needed that is not held. Raises `PermanentError` if they are no keys.
        """
        self._reread = reread
        self._held = _parse(keys)

    @staticmethod
    def new_key() -> str:
        """A fresh key-encryption key as base64."""
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
        """Take over keys that were added or dropped meanwhile. A file that cannot be used now changes nothing."""
        if self._reread is None:
            return
        try:
            keys = self._reread()
            if keys is not None:
                self._held = _parse(keys)
        except (PermanentError, OSError):
            return  # half copied, or out of reach for a moment: what is held still opens what it opened

    def holds(self, key_id: str) -> bool:
        """Whether what is sealed under this key can be opened here."""
        if key_id not in self._held:
            self.refresh()
        return key_id in self._held

    def encrypt(self, private_key_pem: str, *, certificate_id: int, under: str | None = None) -> bytes:
        """Encrypt a PEM for the row of this certificate, by default under the first key. Raises `KeyNotHeldError`."""
        return self.encrypt_for(f"certificate:{certificate_id}", private_key_pem, under=under)

    def decrypt(self, encrypted: bytes, *, certificate_id: int) -> str:
        """The PEM again. Raises `SealBrokenError` or `KeyNotHeldError`."""
        return self.decrypt_for(f"certificate:{certificate_id}", encrypted)

    def encrypt_for(self, owner: str, secret: str, *, under: str | None = None) -> bytes:
        """Encrypt a secret for the row that `owner` names. Raises `KeyNotHeldError`."""
        key_id = under or self.key_id
        header = _VERSION + bytes.fromhex(key_id)
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._aead(key_id, owner).encrypt(nonce, secret.encode(), header + owner.encode())

    def decrypt_for(self, owner: str, encrypted: bytes) -> str:
        """The secret again. Raises `SealBrokenError` or `KeyNotHeldError`."""
        header, rest = encrypted[:_HEADER_BYTES], encrypted[_HEADER_BYTES:]
        if len(header) < _HEADER_BYTES or not header.startswith(_VERSION):
            raise DecryptionError(f"what is sealed for {owner} is not of a format that this version knows")
        aead = self._aead(key_id_of_ciphertext(encrypted), owner)
        try:
            return aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + owner.encode()).decode()
        except (InvalidTag, ValueError):  # ValueError: too short to have a nonce
            raise DecryptionError(f"what is sealed for {owner} was altered or belongs to another one") from None

    def _aead(self, key_id: str, owner: str) -> AESGCM:
        if not self.holds(key_id):
            raise KeyNotHeldError(
                f"{owner} is sealed under the key-encryption key {key_id}, which is not held here "
                f"(held: {', '.join(self._held)}): put it back, see `flask keys status`"
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
