"""Verifying a downloaded certificate before it is stored: key, chain, validity and names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from app.domain_names import covers
from app.errors import PermanentError

# Certification authorities back-date by an hour; this allows for our own clock running late.
_CLOCK_TOLERANCE = timedelta(minutes=5)


_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class VerificationError(PermanentError):
    """The certificate must not be used. The message names the failed check and holds no key material."""


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """The contents of the X.509. PEM texts end with a newline; the chain is in order and has no root."""

    leaf_pem: str
    chain_pem: str
    common_name: str
    names: tuple[str, ...]
    serial: str
    fingerprint: str
    key_algorithm: str
    not_before: datetime
    not_after: datetime


def verify(
    leaf_pem: str,
    chain_pems: Sequence[str],
    private_key_pem: str,
    *,
    now: datetime,
    must_cover: Iterable[str] = (),
) -> VerifiedCertificate:
    """Check that the key matches, the chain verifies, and the certificate is valid at `now` and covers the names.

    A chain that arrives in another order or with its root is normalised. Raises `VerificationError`.
    """
    with _parse_errors():
        return _verify(leaf_pem, chain_pems, private_key_pem, now, must_cover)


def _verify(
    leaf_pem: str, chain_pems: Sequence[str], private_key_pem: str, now: datetime, must_cover: Iterable[str]
) -> VerifiedCertificate:
    leaf = _load_certificate(leaf_pem, "the certificate")
    _check_key(leaf, private_key_pem)
    chain = _order_chain(leaf, [_load_certificate(pem, "the chain") for pem in _split(chain_pems)])
    for certificate in (leaf, *chain):
        _check_validity(certificate, now)
    names = _names(leaf)
    missing = sorted(name for name in must_cover if not covers(names, name))
    if missing:
        raise VerificationError(f"the certificate does not cover {', '.join(missing)}; it covers {', '.join(names)}")
    return VerifiedCertificate(
        leaf_pem=_pem(leaf),
        chain_pem="".join(_pem(certificate) for certificate in chain),
        common_name=_common_name(leaf) or names[0],
        names=names,
        serial=f"{leaf.serial_number:x}",
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        key_algorithm=_key_algorithm(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def check_key(leaf_pem: str, private_key_pem: str) -> None:
    """Check that a private key belongs to a certificate. Raises `VerificationError`."""
    with _parse_errors():
        _check_key(_load_certificate(leaf_pem, "the certificate"), private_key_pem)


@contextmanager
def _parse_errors() -> Iterator[None]:
    """Parts of a certificate are parsed when they are first accessed, and fail with many kinds of errors."""
    try:
        yield
    except _UNREADABLE as error:
        # Without the cause and its text, which may quote the input.
        kind = type(error).__name__
        raise VerificationError(f"the certificate from DNSimple has a part that cannot be parsed ({kind})") from None


def _load_certificate(pem: str, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise VerificationError(f"{what} from DNSimple is not a PEM certificate") from None


def _split(pems: Sequence[str]) -> list[str]:
    end = "-----END CERTIFICATE-----"
    return [part + end for pem in pems for part in pem.split(end) if part.strip()]


def _check_key(leaf: x509.Certificate, private_key_pem: str) -> None:
    try:
        key = serialization.load_pem_private_key(private_key_pem.encode(), password=None)
    except (ValueError, TypeError):
        # Without the cause, which may quote the input.
        raise VerificationError("the private key from DNSimple is not an unencrypted PEM key") from None
    if _public_bytes(key.public_key()) != _public_bytes(leaf.public_key()):
        raise VerificationError("the private key does not match the certificate")


def _public_bytes(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def _order_chain(leaf: x509.Certificate, given: list[x509.Certificate]) -> list[x509.Certificate]:
    """The intermediates in order, each the issuer of the previous one; a self-signed root is omitted."""
    chain: list[x509.Certificate] = []
    remaining = [certificate for certificate in given if certificate.subject != certificate.issuer]
    lowest = leaf
    while remaining:
        issuer = next((candidate for candidate in remaining if _issued(candidate, lowest)), None)
        if issuer is None:
            raise VerificationError("the chain does not verify: an intermediate is missing or does not belong to it")
        chain.append(issuer)
        remaining.remove(issuer)
        lowest = issuer
    roots = [certificate for certificate in given if certificate.subject == certificate.issuer]
    if roots and not any(_issued(root, lowest) for root in roots):
        raise VerificationError("the chain does not verify against the root that DNSimple returned with it")
    if not chain and not roots:
        raise VerificationError("DNSimple returned the certificate without its chain")
    return chain


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return bool(issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def _check_validity(certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first - _CLOCK_TOLERANCE <= now <= last:
        subject = certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"
        raise VerificationError(
            f"{subject} is not valid now, only from {first:%Y-%m-%dT%H:%MZ} to {last:%Y-%m-%dT%H:%MZ}"
        )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = extension.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = [_common_name(leaf)]  # a CSR in DNSimple's fixtures had no SAN extension (contract, section 2.3)
    names = [name.lower() for name in names if name]
    if not names:
        raise VerificationError("the certificate names no host")
    return tuple(sorted(set(names)))


def _common_name(leaf: x509.Certificate) -> str:
    attributes = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value).lower() if attributes else ""


def _key_algorithm(leaf: x509.Certificate) -> str:
    key = leaf.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
