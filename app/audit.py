"""The audit trail: who did what. Each entry is chained by hash to the previous one, so that changes are detected.

`record` is called in the transaction of the action: both are committed, or neither. Entries are numbered without gaps,
and the head (the last number and its hash) is stored separately, so that a truncated end is detected too. The limits of
this, and how a head stored elsewhere overcomes them, are in docs/security.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from app.db.clock import read_now
from app.db.installation_state import AUDIT_HEAD
from app.db.models import AuditEntry
from app.errors import PermanentError

SYSTEM = "system"
_PENDING = "audit entries"
_ORIGIN = "0" * 64
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry's number (0 for none) and its hash, written as `12:ab34...`."""

    number: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Head:
        """Parse what `str()` returns. Raises `ValueError`."""
        number, _, digest = text.strip().partition(":")
        if not number.isascii() or not number.isdigit() or len(digest) != len(_ORIGIN):
            raise ValueError("must be NUMBER:HASH, as `certcourier audit verify` prints it")
        return cls(int(number), digest.lower())

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"


class AuditBrokenError(PermanentError):
    """The trail was altered. `number` is the first entry that is wrong."""

    def __init__(self, number: int, error: str) -> None:
        super().__init__(f"entry {number}: {error}")
        self.number = number


def record(session: Session, *, actor: str, action: str, subject: str, detail: dict[str, Any] | None = None) -> None:
    """Add an entry in the caller's transaction. It must not contain secrets.

    `actor` is `token:<id> <name>`, `operator:<user>@<host>` or `SYSTEM`; `action` is like `token.revoked`; `subject` is
    the ID of the object. It is written at commit, so that the trail's lock is taken last and held briefly: two
    transactions never deadlock on it.
    """
    session.info.setdefault(_PENDING, []).append((actor, action, subject, detail or {}))


def entries(session: Session) -> Iterator[AuditEntry]:
    """All entries in order, read in batches."""
    last = None
    while True:
        query = select(AuditEntry).order_by(AuditEntry.id).limit(_BATCH)
        batch = session.scalars(query if last is None else query.where(AuditEntry.id > last)).all()
        yield from batch
        if len(batch) < _BATCH:
            return
        last = batch[-1].id
        session.expunge_all()


def newest(session: Session, count: int) -> Sequence[AuditEntry]:
    """The last entries, newest first."""
    return session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(count)).all()


def document(entry: AuditEntry) -> dict[str, Any]:
    """An entry for export: what was hashed, and the hashes, so that a reader can verify the chain."""
    return _content(entry) | {"hash": entry.hash}


def verify(session: Session, *, known: Head | None = None) -> Head:
    """Verify the whole chain and return its head. Raises `AuditBrokenError`.

    `known` is a head that was stored elsewhere earlier: the entry with its number must still have its hash.
    """
    session.connection(execution_options=_one_snapshot(session))
    stored, at_end = _stored_head(session), Head(0, _ORIGIN)
    for entry in entries(session):
        _check(entry, at_end)
        at_end = Head(entry.id, entry.hash)
        if known is not None and known.number == entry.id and known.digest != entry.hash:
            raise AuditBrokenError(entry.id, f"has the hash {entry.hash}, not the {known.digest} recorded earlier")
    longest = max(stored.number, known.number if known else 0)
    if at_end.number < longest:
        raise AuditBrokenError(at_end.number + 1, f"is missing, like all up to {longest}: the end was truncated")
    if at_end != stored:
        raise AuditBrokenError(at_end.number, "is not the last entry according to the trail's head")
    return at_end


def _check(entry: AuditEntry, previous: Head) -> None:
    if entry.id != previous.number + 1:
        raise AuditBrokenError(previous.number + 1, f"is missing: {entry.id} comes next")
    if entry.previous_hash != previous.digest:
        raise AuditBrokenError(entry.id, f"does not follow entry {previous.number}: an entry was altered or moved")
    try:
        right = _digest(entry) == entry.hash
    except ValueError:
        right = False
    if not right:
        raise AuditBrokenError(entry.id, "was altered: its content does not match its hash")


@event.listens_for(Session, "before_commit")
def _write_pending(session: Session) -> None:
    if session.in_nested_transaction():
        return
    pending = session.info.pop(_PENDING, [])
    if not pending:
        return
    text = AUDIT_HEAD.get_locked(session)
    if text is None:
        AUDIT_HEAD.set_once(session, str(Head(0, _ORIGIN)))
        text = AUDIT_HEAD.get_locked(session) or ""
    head, now = Head.parse(text), read_now(session)
    for actor, action, subject, detail in pending:
        entry = AuditEntry(
            id=head.number + 1,
            at=now,
            actor=actor,
            action=action,
            subject=subject,
            detail=_canonical(detail),
            previous_hash=head.digest,
        )
        entry.hash = _digest(entry)
        session.add(entry)
        head = Head(entry.id, entry.hash)
    AUDIT_HEAD.set(session, str(head))


@event.listens_for(Session, "after_rollback")
def _drop_pending(session: Session) -> None:
    session.info.pop(_PENDING, None)


def _stored_head(session: Session) -> Head:
    text = AUDIT_HEAD.get(session)
    try:
        return Head(0, _ORIGIN) if text is None else Head.parse(text)
    except ValueError:
        raise AuditBrokenError(0, "the stored head of the trail was altered") from None


def _one_snapshot(session: Session) -> dict[str, Any]:
    """Entries added during verification must not look like a wrong head. SQLite reads are consistent anyway."""
    return {} if session.get_bind().dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}


def _digest(entry: AuditEntry) -> str:
    return hashlib.sha256(_canonical(_content(entry)).encode()).hexdigest()


def _content(entry: AuditEntry) -> dict[str, Any]:
    return {
        "number": entry.id,
        "at": _instant(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": json.loads(entry.detail),
        "previous_hash": entry.previous_hash,
    }


def _canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only: the same text for the same content everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")
