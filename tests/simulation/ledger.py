"""What arrived at a destination, in which order, and with how much of the old certificate's lifetime left."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from app.destinations.base import Bundle, DeliveryResult, Destination, DestinationConfig, Version


@dataclass(slots=True)
class Slot:
    """The slot's certificate. `lowest` is the smallest share of a lifetime that was left when its successor arrived."""

    version: Version
    not_before: datetime
    not_after: datetime
    renewals: int = 0
    lowest: float = 1.0
    out_of_order: int = 0
    expired: int = 0


@dataclass(slots=True)
class Ledger:
    """A destination that records what the real one accepted."""

    real: Destination
    now: datetime
    slots: dict[str, Slot] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def config(self) -> DestinationConfig:
        return self.real.config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        result = self.real.deliver(bundle)
        if result.outcome == "delivered":
            leaf = x509.load_pem_x509_certificate(bundle.leaf_pem.encode())
            with self.lock:
                self._write(bundle, leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        return result

    def check(self) -> None:
        self.real.check()

    def look(self, now: datetime) -> None:
        """Count the slots whose certificate has expired by now, once for each certificate."""
        with self.lock:
            self.now = now
            for slot in self.slots.values():
                if slot.not_after <= now:
                    slot.expired, slot.lowest = slot.expired + 1, 0.0
                    slot.not_after = datetime.max.replace(tzinfo=now.tzinfo)

    def _write(self, bundle: Bundle, not_before: datetime, not_after: datetime) -> None:
        held = self.slots.get(bundle.slot)
        if held is None:
            self.slots[bundle.slot] = Slot(bundle.version, not_before, not_after)
            return
        if bundle.version < held.version:
            held.out_of_order += 1
        elif bundle.version > held.version:
            held.renewals += 1
            held.lowest = min(held.lowest, (held.not_after - self.now) / (held.not_after - held.not_before))
        held.version, held.not_before, held.not_after = bundle.version, not_before, not_after
