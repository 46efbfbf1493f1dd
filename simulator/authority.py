"""A certification authority for tests: root, intermediate and real X.509, with keys generated for each simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)
type PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Issued:
    """PEM texts as DNSimple returns them (contract, section 1.1): those of the chain without a final newline."""

    certificate: str
    chain: list[str]
    private_key: str
    csr: str
    serial: str


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority's certificates and key as PEM texts."""

    root: str
    intermediate: str
    key: str

    @classmethod
    def create(cls) -> Authority:
        """Create a root and one intermediate, both ECDSA."""
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root_name, name = _name("Simulated Root"), _name("Simulated Issuing CA")
        root = _authority(root_name, root_name, root_key, root_key, path_length=1)
        intermediate = _authority(name, root_name, key, root_key, path_length=0)
        return cls(_pem(root), _pem(intermediate), _key_pem(key))

    def key_identifier(self) -> bytes:
        """The authority key identifier of its leaves (RFC 5280, section 4.2.1.1)."""
        issuer = x509.load_pem_x509_certificate(self.intermediate.encode())
        return issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    def issue(self, names: Sequence[str], algorithm: str, *, not_before: float, not_after: float) -> Issued:
        """Issue a leaf for `names`, the first of which is its common name. Times are seconds since 1970."""
        key = _new_key(algorithm)
        signer = serialization.load_pem_private_key(self.key.encode(), password=None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101, made by `create`
        issuer = x509.load_pem_x509_certificate(self.intermediate.encode())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        leaf = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(int(not_before), UTC))
            .not_valid_after(datetime.fromtimestamp(int(not_after), UTC))
            .add_extension(alternatives, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        csr = x509.CertificateSigningRequestBuilder().subject_name(_name(names[0]))
        signed = csr.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
        csr_pem = signed.public_bytes(Encoding.PEM).decode()
        return Issued(_pem(leaf), [self.intermediate.rstrip("\n")], _key_pem(key), csr_pem, f"{leaf.serial_number:x}")


def new_key(algorithm: str) -> str:
    """Generate a private key: `ECDSA` or `RSA`."""
    return _key_pem(_new_key(algorithm))


def _new_key(algorithm: str) -> PrivateKey:
    if algorithm == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _authority(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
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
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 365 * _DAY)
        .not_valid_after(now + 3650 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: PrivateKey) -> str:
    """PKCS#1 for RSA as in DNSimple's fixtures, SEC 1 for ECDSA by analogy (contract, section 6)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
