"""Layouts of the files destination: the files of a version, and the names by which servers read them.

| layout | for |
|---|---|
| `separate` | nginx, Apache, Caddy's `tls`, most servers: certificate and key in files of their own |
| `haproxy` | HAProxy's `crt` folder, Caddy's `load_folders`: one file per lineage |
| `traefik` | Traefik's file provider: separate files, and a dynamic configuration that names them |
| `pkcs12` | Java and Windows: a keystore with a password |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from app.destinations.base import Bundle, DestinationRefusedError, DestinationUnavailableError
from app.destinations.credentials import read_credential


class Layout(Protocol):
    """`files`: names in a version, and whether each holds the private key."""

    files: ClassVar[Mapping[str, bool]]

    def render(self, bundle: Bundle) -> dict[str, bytes]:
        """The files of a version by name."""

    def holds(self, found: Mapping[str, bytes], bundle: Bundle) -> bool:
        """Whether these files hold this certificate."""

    def links(self, slot: Path) -> dict[Path, str]:
        """Links outside the version, with their targets."""

    def announcement(self, slot: Path, version: Path) -> tuple[Path, bytes] | None:
        """A public file that is replaced after the switch, if the layout has one."""


@dataclass(frozen=True, slots=True)
class Separate:
    """Four files, each under its name in the slot's folder."""

    files: ClassVar[Mapping[str, bool]] = {
        "fullchain.pem": False,
        "privkey.pem": True,
        "cert.pem": False,
        "chain.pem": False,
    }

    def render(self, bundle: Bundle) -> dict[str, bytes]:
        texts = (bundle.fullchain_pem, bundle.key.reveal(), bundle.leaf_pem, bundle.chain_pem)
        return {name: text.encode() for name, text in zip(self.files, texts, strict=True)}

    def holds(self, found: Mapping[str, bytes], bundle: Bundle) -> bool:
        return found == self.render(bundle)

    def links(self, slot: Path) -> dict[Path, str]:
        return {slot / name: f"current/{name}" for name in self.files}

    def announcement(self, slot: Path, version: Path) -> tuple[Path, bytes] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class HAProxy:
    """One file `PATH/<slot>.pem`, so that `crt PATH` reads all lineages.

    HAProxy takes no folders and nothing that begins with a dot (configuration manual, 5.1, `crt`). Caddy's
    `load_folders` goes into folders too, but takes only names ending in `.pem`, so the file in the version has another.
    """

    files: ClassVar[Mapping[str, bool]] = {"combined": True}

    def render(self, bundle: Bundle) -> dict[str, bytes]:
        return {"combined": (bundle.fullchain_pem + bundle.key.reveal()).encode()}

    def holds(self, found: Mapping[str, bytes], bundle: Bundle) -> bool:
        return found == self.render(bundle)

    def links(self, slot: Path) -> dict[Path, str]:
        return {slot.with_name(f"{slot.name}.pem"): f"{slot.name}/current/combined"}

    def announcement(self, slot: Path, version: Path) -> tuple[Path, bytes] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class Traefik(Separate):
    """The four files, and `PATH/<slot>.yml`, which Traefik watches.

    It names the files of one version, not `current`, so Traefik never reads certificate and key of different versions.
    `traefik_path` is `PATH` as Traefik sees it.
    """

    traefik_path: Path

    def announcement(self, slot: Path, version: Path) -> tuple[Path, bytes] | None:
        folder = self.traefik_path / slot.name / "versions" / version.name
        certificate, key = json.dumps(str(folder / "fullchain.pem")), json.dumps(str(folder / "privkey.pem"))
        text = f"tls:\n  certificates:\n    - certFile: {certificate}\n      keyFile: {key}\n"
        return slot.with_name(f"{slot.name}.yml"), text.encode()


@dataclass(frozen=True, slots=True)
class Pkcs12:
    """A keystore `keystore.p12` in the slot's folder; its entry is named like the slot."""

    password_file: Path
    files: ClassVar[Mapping[str, bool]] = {"keystore.p12": True}

    def render(self, bundle: Bundle) -> dict[str, bytes]:
        chain = x509.load_pem_x509_certificates(bundle.fullchain_pem.encode())
        key = load_pem_private_key(bundle.key.reveal().encode(), password=None)
        store = pkcs12.serialize_key_and_certificates(
            bundle.slot.encode(),
            key,  # type: ignore[arg-type]  # verified to be RSA or EC when it was fetched
            chain[0],
            chain[1:],
            BestAvailableEncryption(self.password()),
        )
        return {"keystore.p12": store}

    def holds(self, found: Mapping[str, bytes], bundle: Bundle) -> bool:
        """By content: encryption differs each time."""
        try:
            store = pkcs12.load_pkcs12(found["keystore.p12"], self.password())
        except ValueError:  # damaged, or another password
            return False
        chain = x509.load_pem_x509_certificates(bundle.fullchain_pem.encode())
        key = load_pem_private_key(bundle.key.reveal().encode(), password=None)
        held = [store.cert, *store.additional_certs]
        return (
            [entry.certificate for entry in held if entry] == chain
            and store.key is not None
            and store.key.public_key() == key.public_key()
        )

    def links(self, slot: Path) -> dict[Path, str]:
        return {slot / name: f"current/{name}" for name in self.files}

    def announcement(self, slot: Path, version: Path) -> tuple[Path, bytes] | None:  # noqa: ARG002
        return None

    def password(self) -> bytes:
        """The file's first line. Raises `DestinationUnavailableError` if the file cannot be used."""
        try:
            lines = read_credential(self.password_file, "password_file").encode().splitlines()
        except DestinationRefusedError as error:
            raise DestinationUnavailableError(str(error)) from None  # the file may appear later
        if len(lines[0]) < 6:  # Java's minimum
            raise DestinationUnavailableError(
                f"password_file: {self.password_file} must have at least 6 characters in its first line"
            )
        return lines[0]
