"""Private keys at rest."""

from __future__ import annotations

import pytest

from app.crypto.encryption import DecryptionError, Encryptor, KeyNotHeldError
from app.errors import PermanentError

PEM = "a private key"


def test_a_ciphertext_decrypts_for_its_owner_only() -> None:
    encryptor = Encryptor(Encryptor.new_key())
    encrypted = encryptor.encrypt("certificate:1", PEM)
    assert encryptor.decrypt("certificate:1", encrypted) == PEM
    with pytest.raises(DecryptionError, match="belongs to another"):
        encryptor.decrypt("certificate:2", encrypted)


def test_a_ciphertext_does_not_contain_the_secret() -> None:
    assert PEM.encode() not in Encryptor(Encryptor.new_key()).encrypt("certificate:1", PEM)


def test_two_ciphertexts_of_one_secret_differ() -> None:
    encryptor = Encryptor(Encryptor.new_key())
    assert encryptor.encrypt("certificate:1", PEM) != encryptor.encrypt("certificate:1", PEM)


def test_another_key_encryption_key_is_reported_as_not_held() -> None:
    encrypted = Encryptor(Encryptor.new_key()).encrypt("certificate:1", PEM)
    with pytest.raises(KeyNotHeldError, match="does not hold"):
        Encryptor(Encryptor.new_key()).decrypt("certificate:1", encrypted)


@pytest.mark.parametrize("position", [0, 1, 9, 21, -1])
def test_any_altered_byte_is_detected(position: int) -> None:
    encryptor = Encryptor(Encryptor.new_key())
    encrypted = bytearray(encryptor.encrypt("certificate:1", PEM))
    encrypted[position] ^= 1
    with pytest.raises((DecryptionError, KeyNotHeldError)):
        encryptor.decrypt("certificate:1", bytes(encrypted))


@pytest.mark.parametrize("text", ["", "short", "AAAA", "!" * 44])
def test_an_invalid_key_encryption_key_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="32 random bytes"):
        Encryptor(text)
