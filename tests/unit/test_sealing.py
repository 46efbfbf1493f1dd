"""Private keys at rest."""

from __future__ import annotations

import pytest

from app.crypto.encryption import KeyNotHeldError, SealBrokenError, Sealer
from app.errors import PermanentError

PEM = "a private key"


def test_a_sealed_key_opens_for_its_certificate_only() -> None:
    sealer = Sealer(Sealer.new_key())
    sealed = sealer.seal(PEM, certificate_id=1)
    assert sealer.open(sealed, certificate_id=1) == PEM
    with pytest.raises(SealBrokenError, match="belongs to another"):
        sealer.open(sealed, certificate_id=2)


def test_a_sealed_key_does_not_hold_the_key() -> None:
    assert PEM.encode() not in Sealer(Sealer.new_key()).seal(PEM, certificate_id=1)


def test_two_seals_of_one_key_differ() -> None:
    sealer = Sealer(Sealer.new_key())
    assert sealer.seal(PEM, certificate_id=1) != sealer.seal(PEM, certificate_id=1)


def test_another_key_encryption_key_does_not_open_it_and_says_so() -> None:
    sealed = Sealer(Sealer.new_key()).seal(PEM, certificate_id=1)
    with pytest.raises(KeyNotHeldError, match="not held here"):
        Sealer(Sealer.new_key()).open(sealed, certificate_id=1)


@pytest.mark.parametrize("position", [0, 1, 9, 21, -1])
def test_any_altered_byte_is_noticed(position: int) -> None:
    sealer = Sealer(Sealer.new_key())
    sealed = bytearray(sealer.seal(PEM, certificate_id=1))
    sealed[position] ^= 1
    with pytest.raises((SealBrokenError, KeyNotHeldError)):
        sealer.open(bytes(sealed), certificate_id=1)


@pytest.mark.parametrize("text", ["", "short", "AAAA", "!" * 44])
def test_a_key_encryption_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="32 random bytes"):
        Sealer(text)
