"""Delivers certificates as JSON documents to a directory from which another program reads them."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
    Version,
)


class SpoolConfig(DestinationConfig):
    """The fields of `kind = "spool"`, in addition to the common ones."""

    kind: Literal["spool"] = "spool"
    folder: Path = Field(description="Directory that contains one document per lineage.")


class SpoolDestination:
    """The constructor must open nothing and never fail."""

    Config = SpoolConfig

    def __init__(self, config: SpoolConfig) -> None:
        self._config = config

    @property
    def config(self) -> SpoolConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        """Can be called again for the same certificate, and by several workers at once."""
        held = self._held(bundle.slot)
        if held is not None and held > bundle.version:  # never replace a newer certificate
            return DeliveryResult("superseded", f"certificate {held.certificate_id} is newer")
        document = {
            "not_before": bundle.version.not_before.isoformat(),
            "certificate_id": bundle.version.certificate_id,
            "names": bundle.names,
            "fullchain": bundle.fullchain_pem,
            "key": bundle.key.reveal(),
        }
        try:
            self._config.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._config.folder, prefix=".new-")  # mode 0600
            with os.fdopen(handle, "w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._file(bundle.slot))
        except OSError as error:  # can succeed later: retried with increasing delays
            raise DestinationUnavailableError(f"{self._config.folder}: {error.strerror}") from error
        return DeliveryResult("delivered", str(self._file(bundle.slot)))

    def check(self) -> None:
        """Called when the service starts. Must not change anything."""
        if self._config.folder.exists() and not os.access(self._config.folder, os.W_OK | os.X_OK):
            raise DestinationRefusedError(f"folder: {self._config.folder} is not writable for this process")

    def _held(self, slot: str) -> Version | None:
        try:
            document = json.loads(self._file(slot).read_text())
        except FileNotFoundError:
            return None
        return Version(datetime.fromisoformat(document["not_before"]), document["certificate_id"])

    def _file(self, slot: str) -> Path:
        return self._config.folder / f"{slot}.json"
