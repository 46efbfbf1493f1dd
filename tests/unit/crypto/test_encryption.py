"""Private keys at rest."""

from __future__ import annotations

import pytest

from app.crypto.encryption import DecryptionError, Encryptor, KeyNotHeldError
from app.errors import PermanentError

PEM = "a private key"


def test_a_sealed_key_opens_for_its_certificate_only() -> None:
    encryptor = Encryptor(Encryptor.new_key())
    encrypted = encryptor.encrypt(PEM, certificate_id=1)
    assert encryptor.decrypt(encrypted, certificate_id=1) == PEM
    with pytest.raises(DecryptionError, match="belongs to another"):
        encryptor.decrypt(encrypted, certificate_id=2)


def test_a_sealed_key_does_not_hold_the_key() -> None:
    assert PEM.encode() not in Encryptor(Encryptor.new_key()).encrypt(PEM, certificate_id=1)


def test_two_seals_of_one_key_differ() -> None:
    encryptor = Encryptor(Encryptor.new_key())
    assert encryptor.encrypt(PEM, certificate_id=1) != encryptor.encrypt(PEM, certificate_id=1)


def test_another_key_encryption_key_does_not_open_it_and_says_so() -> None:
    encrypted = Encryptor(Encryptor.new_key()).encrypt(PEM, certificate_id=1)
    with pytest.raises(KeyNotHeldError, match="not held here"):
        Encryptor(Encryptor.new_key()).decrypt(encrypted, certificate_id=1)


@pytest.mark.parametrize("position", [0, 1, 9, 21, -1])
def test_any_altered_byte_is_noticed(position: int) -> None:
    encryptor = Encryptor(Encryptor.new_key())
    encrypted = bytearray(encryptor.encrypt(PEM, certificate_id=1))
    encrypted[position] ^= 1
    with pytest.raises((DecryptionError, KeyNotHeldError)):
        encryptor.decrypt(bytes(encrypted), certificate_id=1)


@pytest.mark.parametrize("text", ["", "short", "AAAA", "!" * 44])
def test_a_key_encryption_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="32 random bytes"):
        Encryptor(text)
