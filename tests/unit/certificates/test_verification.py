"""A certificate is used only if its key fits, its chain links up, it is valid and it covers what was ordered."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.certificates.verification import VerificationError, verify
from tests.support.x509 import Authority, Issued, pem

NOW = datetime.now(UTC)
CA = Authority()
GOOD = CA.issue("www.example.com", "example.com")


def check(issued: Issued, **more: object) -> object:
    arguments = {"now": NOW, "must_cover": ["example.com"]} | more
    return verify(issued.leaf, issued.chain, issued.key, **arguments)  # type: ignore[arg-type]


def test_every_value_comes_from_the_certificate_itself() -> None:
    verified = verify(GOOD.leaf, GOOD.chain, GOOD.key, now=NOW)
    assert verified.names == ("example.com", "www.example.com")
    assert verified.common_name == "www.example.com"
    assert verified.key_algorithm == "ECDSA secp256r1"
    assert verified.not_after - verified.not_before == timedelta(days=90)
    assert len(verified.fingerprint) == 64
    assert verified.chain_pem == pem(CA.intermediate)


def test_a_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not match"):
        check(Issued(GOOD.leaf, GOOD.chain, CA.issue("example.com").key))


def test_an_unreadable_key_is_refused_without_being_quoted() -> None:
    with pytest.raises(VerificationError) as caught:
        check(Issued(GOOD.leaf, GOOD.chain, GOOD.key.replace("MH", "!!")))
    assert caught.value.__cause__ is None
    assert "BEGIN" not in str(caught.value)


def test_a_chain_of_another_authority_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not verify"):
        check(Issued(GOOD.leaf, [pem(Authority().intermediate)], GOOD.key))


def test_an_authority_of_the_same_name_with_another_key_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not verify"):
        check(Issued(GOOD.leaf, [pem(Authority("Test").intermediate)], GOOD.key))


def test_a_missing_chain_is_refused() -> None:
    with pytest.raises(VerificationError, match="without its chain"):
        check(Issued(GOOD.leaf, [], GOOD.key))


def test_a_root_is_omitted_and_the_chain_is_ordered() -> None:
    issued = Issued(GOOD.leaf, [pem(CA.root) + pem(CA.intermediate)], GOOD.key)
    assert verify(issued.leaf, issued.chain, issued.key, now=NOW).chain_pem == pem(CA.intermediate)


def test_a_root_that_does_not_belong_is_refused() -> None:
    with pytest.raises(VerificationError, match="root"):
        check(Issued(GOOD.leaf, [*GOOD.chain, pem(Authority().root)], GOOD.key))


def test_a_leaf_cannot_vouch_for_another() -> None:
    with pytest.raises(VerificationError, match="does not verify"):
        check(Issued(GOOD.leaf, [*GOOD.chain, CA.issue("other.example").leaf], GOOD.key))


@pytest.mark.parametrize("days_from_now", [-1, 91])
def test_outside_its_validity_it_is_refused(days_from_now: int) -> None:
    with pytest.raises(VerificationError, match="not valid now"):
        check(GOOD, now=NOW + timedelta(days=days_from_now))


def test_a_clock_that_is_a_little_late_is_forgiven() -> None:
    check(GOOD, now=NOW - timedelta(hours=1, minutes=3))


def test_a_name_that_is_not_covered_is_named() -> None:
    with pytest.raises(VerificationError, match=r"does not cover shop\.example\.com"):
        check(GOOD, must_cover=["example.com", "shop.example.com"])


def test_a_wildcard_covers_the_names_ordered() -> None:
    check(CA.issue("*.example.com", "example.com"), must_cover=["www.example.com", "example.com"])


@pytest.mark.parametrize(
    "garbage", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_is_not_a_certificate_is_refused(garbage: str) -> None:
    with pytest.raises(VerificationError, match="not a PEM"):
        check(Issued(garbage, GOOD.chain, GOOD.key))
    with pytest.raises(VerificationError):
        check(Issued(GOOD.leaf, [garbage], GOOD.key))


CURVE = bytes.fromhex("06082a8648ce3d030107")  # P-256
UNKNOWN_CURVE = CURVE[:-1] + b"\x55"


def altered(pem: str, old: bytes, new: bytes) -> str:
    """A PEM with some bytes of its content replaced."""
    first, *lines, last = pem.splitlines()
    content = base64.b64decode("".join(lines))
    assert old in content
    return f"{first}\n{base64.encodebytes(content.replace(old, new)).decode()}{last}\n"


def test_what_the_library_cannot_read_is_refused_wherever_it_is() -> None:
    """Found by fuzzing: it is noticed only when the key is asked for, and was no error of ours."""
    issued = Authority().issue("www.customer.example")
    leaf = x509.load_pem_x509_certificate(issued.leaf.encode())
    point = leaf.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    not_on_the_curve = point[:-1] + bytes([point[-1] ^ 1])
    for sent in (
        (altered(issued.leaf, CURVE, UNKNOWN_CURVE), issued.chain, issued.key),
        (altered(issued.leaf, point, not_on_the_curve), issued.chain, issued.key),
        (issued.leaf, [altered(issued.chain[0], CURVE, UNKNOWN_CURVE)], issued.key),
        (issued.leaf, issued.chain, altered(issued.key, CURVE, UNKNOWN_CURVE)),
    ):
        with pytest.raises(VerificationError):
            verify(*sent, now=datetime.now(UTC))
