"""What the installation knows about itself, shared by all its processes; each entry has its type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from app.db.models import InstallationState
from app.db.upsert import changed_rows, insert_once


@dataclass(frozen=True, slots=True)
class StateEntry[T]:
    """One row of the table; `decode` and `encode` convert between its text and its type."""

    name: str
    decode: Callable[[str], T]
    encode: Callable[[T], str] = str

    def get(self, session: Session) -> T | None:
        """The value on record, or None."""
        return self._decode(session.scalar(self._query()))

    def get_locked(self, session: Session, *, shared: bool = False) -> T | None:
        """The value, which no other transaction can change before this one ends.

        Several transactions can hold a shared lock; an exclusive one waits for all of them.
        """
        return self._decode(session.scalar(self._query().with_for_update(read=shared)))

    def set(self, session: Session, value: T) -> None:
        """Replace the value in the caller's transaction."""
        text = self.encode(value)
        row = update(InstallationState).where(InstallationState.name == self.name).values(value=text)
        if not changed_rows(session.execute(row)) and not insert_once(
            session, InstallationState, name=self.name, value=text
        ):
            session.execute(row)

    def set_once(self, session: Session, value: T) -> T:
        """Set the value unless there is one; returns the one on record."""
        insert_once(session, InstallationState, name=self.name, value=self.encode(value))
        stored = self.get(session)
        return value if stored is None else stored

    def _query(self) -> Select[str]:
        return select(InstallationState.value).where(InstallationState.name == self.name)

    def _decode(self, text: str | None) -> T | None:
        return None if text is None else self.decode(text)


@dataclass(frozen=True, slots=True)
class MissedEvents:
    """When the webhook was last found suppressed or missing, and which of them."""

    found_at: datetime
    cause: str

    @classmethod
    def decode(cls, text: str) -> MissedEvents:
        """Read what `encode` wrote."""
        value = json.loads(text)
        return cls(datetime.fromisoformat(value["found_at"]), value["cause"])

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self) | {"found_at": self.found_at.isoformat()})


@dataclass(frozen=True, slots=True)
class DomainListing:
    """How far the account's domains have been listed: the day (since 1970) and the next page, or 0 when complete."""

    day: int
    next_page: int

    @classmethod
    def decode(cls, text: str) -> DomainListing:
        """Read what `encode` wrote."""
        day, _, next_page = text.partition(":")
        return cls(int(day), int(next_page))

    def encode(self) -> str:
        """As `day:page`."""
        return f"{self.day}:{self.next_page}"


ACCOUNT_ID = StateEntry("account_id", int)
DNSIMPLE = StateEntry("dnsimple", str)  # the real DNSimple, or a simulated one
ENCRYPTION_KEY_ID = StateEntry("encryption_key_id", str)
WEBHOOK_ID = StateEntry("webhook_id", int)
WEBHOOK_CHECKED_AT = StateEntry("webhook_checked_at", datetime.fromisoformat, datetime.isoformat)
MISSED_EVENTS = StateEntry("missed_events", MissedEvents.decode, MissedEvents.encode)
ENDPOINTS_DIGEST = StateEntry("endpoints_digest", str)
DOMAIN_LISTING = StateEntry("domain_listing", DomainListing.decode, DomainListing.encode)
AUDIT_HEAD = StateEntry("audit_head", str)
RUNNING_VERSIONS = {role: StateEntry(f"version_{role}", str) for role in ("web", "worker")}
