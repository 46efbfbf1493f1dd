"""Certificates for unit tests: a root, an intermediate and leaves, made fresh in every run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


_CA_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def pem_of_key(key: Key) -> str:
    """An EC key as DNSimple hands it out."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True)
class Issued:
    """A leaf with its key and its chain, as PEM texts."""

    leaf: str
    chain: list[str]
    key: str


class Authority:
    """A certification authority with one intermediate."""

    def __init__(self, name: str = "Test") -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        start, end = datetime.now(UTC) - timedelta(days=400), datetime.now(UTC) + timedelta(days=4000)
        self.root = self._sign(
            f"{name} Root", f"{name} Root", self._root_key, self._root_key, ca=True, start=start, end=end
        )
        self.intermediate = self._sign(
            f"{name} Issuing", f"{name} Root", self._key, self._root_key, ca=True, start=start, end=end
        )
        self._issuer = f"{name} Issuing"

    def issue(self, *names: str, start: datetime | None = None, days: float = 90, key: Key | None = None) -> Issued:
        """A leaf for these names, valid from `start` (an hour ago) for `days`."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        start = start or datetime.now(UTC) - timedelta(hours=1)
        end = start + timedelta(days=days)
        leaf = self._sign(names[0], self._issuer, key, self._key, ca=False, start=start, end=end, names=names)
        return Issued(pem(leaf), [pem(self.intermediate)], pem_of_key(key))

    def _sign(
        self,
        subject: str,
        issuer: str,
        key: Key,
        signer: Key,
        *,
        ca: bool,
        start: datetime,
        end: datetime,
        names: tuple[str, ...] = (),
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if ca:
            builder = builder.add_extension(_CA_USAGE, critical=True)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        return builder.sign(signer, hashes.SHA256())
