"""A program that reads the published files continuously, as a server would."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

_PAUSE_SECONDS = 0.005


class Reader:
    """Reads every published pair again and again. `violations` counts what was wrong, `looks` the reads."""

    def __init__(self, folder: Path) -> None:
        self.violations: Counter[str] = Counter()
        self.looks = 0
        self.flips = 0
        self._folder = folder
        self._seen: dict[Path, tuple[Path, int]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(_PAUSE_SECONDS):
            self.look()

    def look(self) -> None:
        """Read each lineage once."""
        for lineage in sorted(self._folder.glob("*.*")):
            current = lineage / "current"
            if current.exists():
                self._look(lineage, current.resolve())

    def _look(self, lineage: Path, version: Path) -> None:
        self.looks += 1
        before, moment = self._seen.get(lineage, (None, 0))
        if version == before:
            return
        try:
            leaf = x509.load_pem_x509_certificate((version / "fullchain.pem").read_bytes())
            key = load_pem_private_key((version / "privkey.pem").read_bytes(), None)
        except FileNotFoundError:
            if (lineage / "current").resolve() == version:
                self.violations["a published file is missing"] += 1
            return
        except ValueError:
            self.violations["a published file is half-written"] += 1
            return
        public = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if key.public_key().public_bytes(*public) != leaf.public_key().public_bytes(*public):
            self.violations["certificate and key do not match"] += 1
        issued = int(leaf.not_valid_before_utc.timestamp())
        if issued < moment:
            self.violations["an older certificate replaced a newer one"] += 1
        self.flips += 1
        self._seen[lineage] = (version, issued)
