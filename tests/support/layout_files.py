"""What a server would read from each layout of the files destination."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from app.destinations.files.destination import FilesConfig, FilesDestination

LAYOUTS = ("separate", "haproxy", "traefik", "pkcs12")
PASSWORD = "correct horse"
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n", re.DOTALL)


def make_files(root: Path, layout: str, **more: object) -> FilesDestination:
    """A destination of this layout; a keystore's password file lies beside its folder."""
    more = {"path": root, "layout": layout} | more
    if layout == "pkcs12":
        password_file = root.with_name("password")
        password_file.write_text(f"{PASSWORD}\n")
        password_file.chmod(0o600)
        more["password_file"] = password_file
    return FilesDestination(FilesConfig.model_validate(more))


def read_pair(root: Path, layout: str, slot: str = "www.example.com") -> x509.Certificate | None:
    """The leaf that a server would load with its key and chain, or None before there is any. They must match."""
    try:
        certificates, key = _READ[layout](root, slot)
    except FileNotFoundError:
        return None
    assert len(certificates) == 2, "the leaf and its issuer"
    leaf, issuer = certificates
    leaf.verify_directly_issued_by(issuer)
    assert key.public_key() == leaf.public_key(), "the key is another certificate's"
    return leaf


def _separate(root: Path, slot: str) -> tuple[list[x509.Certificate], Any]:
    folder = os.open(root / slot / "current", os.O_RDONLY | os.O_DIRECTORY)
    try:
        texts = []
        for name in ("fullchain.pem", "privkey.pem"):
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
                texts.append(file.read())
    finally:
        os.close(folder)
    return x509.load_pem_x509_certificates(texts[0]), load_pem_private_key(texts[1], None)


def _haproxy(root: Path, slot: str) -> tuple[list[x509.Certificate], Any]:
    text = (root / f"{slot}.pem").read_text()
    blocks = [match[0] for match in _BLOCK.finditer(text)]
    assert "".join(blocks) == text
    return [x509.load_pem_x509_certificate(block.encode()) for block in blocks[:-1]], load_pem_private_key(
        blocks[-1].encode(), None
    )


def _traefik(root: Path, slot: str) -> tuple[list[x509.Certificate], Any]:
    text = (root / f"{slot}.yml").read_text()
    paths = re.fullmatch(r'tls:\n  certificates:\n    - certFile: "(.+)"\n      keyFile: "(.+)"\n', text)
    assert paths is not None, text
    certificates = x509.load_pem_x509_certificates(Path(paths[1]).read_bytes())
    return certificates, load_pem_private_key(Path(paths[2]).read_bytes(), None)


def _pkcs12(root: Path, slot: str) -> tuple[list[x509.Certificate], Any]:
    store = pkcs12.load_pkcs12((root / slot / "keystore.p12").read_bytes(), PASSWORD.encode())
    assert store.cert is not None
    assert store.cert.friendly_name == slot.encode()
    return [store.cert.certificate, *(entry.certificate for entry in store.additional_certs)], store.key


_READ = {"separate": _separate, "haproxy": _haproxy, "traefik": _traefik, "pkcs12": _pkcs12}
