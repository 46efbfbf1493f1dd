"""Ingesting webhook events: each is recorded once, together with its job. An event is only a hint to ask DNSimple."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.certificates.retrieval import FetchRequest, enqueue_fetches
from app.db.group_commit import GroupCommit
from app.db.models import Event, Job
from app.db.upsert import insert_many_once
from app.errors import PermanentError
from app.events.handlers import HANDLED_EVENTS, enqueue_event_handling
from app.identifiers import is_id
from app.services import Services

log = structlog.get_logger("certcourier")

_LONGEST_IDENTIFIER = 128
_LONGEST_NAME = 100
_REISSUED = "certificate.reissue"
_FETCH_EVENTS = {"certificate.issue", _REISSUED}
ACTED_ON = _FETCH_EVENTS | HANDLED_EVENTS

# With this many unfinished jobs, events add no more: reconciliation finds their certificates, one call per domain.
MOST_WAITING = 100_000
_COUNT_SECONDS = 1.0

Outcome = Literal["queued", "ignored", "other_account", "duplicate", "overloaded"]


class InvalidEventError(PermanentError):
    """The body is not an event of DNSimple; the message names the error."""


@dataclass(frozen=True, slots=True)
class IncomingEvent:
    """Everything that is used of an event's body."""

    request_identifier: str
    name: str
    account_id: int | None
    certificate_id: int | None = None
    domain_id: int | None = None


def parse_event(body: bytes) -> IncomingEvent:
    """Parse an event of any name. Raises `InvalidEventError`.

    Unknown names and fields are tolerated; IDs are validated only where they are used.
    """
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise InvalidEventError("the body is not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise InvalidEventError("the body is not a JSON object")
    name = _text(document, "name", _LONGEST_NAME)
    account = document.get("account")
    event = IncomingEvent(
        request_identifier=_text(document, "request_identifier", _LONGEST_IDENTIFIER),
        name=name,
        account_id=_id(account, "id", "account.id") if isinstance(account, dict) else None,
    )
    if name not in ACTED_ON:
        return event
    certificate = _object(_object(document, "data"), "certificate", "data.certificate")
    return replace(
        event,
        certificate_id=_id(certificate, "id", "data.certificate.id"),
        domain_id=_id(certificate, "domain_id", "data.certificate.domain_id"),
    )


class EventIngestion:
    """Records events. A process has one, so that concurrent requests share commits."""

    def __init__(self, services: Services, *, most_waiting: int = MOST_WAITING) -> None:
        self._services = services
        self._most_waiting = most_waiting
        self._overloaded, self._counted_at = False, -math.inf
        self._commits = GroupCommit(services.database, self._record)

    def record(self, event: IncomingEvent) -> Outcome:
        """Commit the event and its job together, once per `request_identifier`; acknowledge it only after that."""
        outcome = self._commits.submit(event)
        self._services.metrics.count_event(event.name, outcome)
        log.info(
            "event received",
            outcome=outcome,
            request_identifier=event.request_identifier,
            event_name=event.name,
            certificate_id=event.certificate_id,
        )
        return outcome

    def _record(self, session: Session, events: Sequence[IncomingEvent]) -> list[Outcome]:
        self._count_waiting(session)
        first = {event.request_identifier: event for event in reversed(events)}
        rows = [asdict(event) | {"outcome": self._outcome(event)} for event in first.values()]
        added = insert_many_once(session, Event, rows, "request_identifier")
        outcomes: list[Outcome] = []
        for event in events:
            outcomes.append(self._outcome(event) if event.request_identifier in added else "duplicate")
            added.discard(event.request_identifier)
        queued = [
            (event.name, FetchRequest(event.certificate_id, event.domain_id, event.request_identifier))
            for event, outcome in zip(events, outcomes, strict=True)
            if outcome == "queued" and event.certificate_id is not None and event.domain_id is not None
        ]
        fetches = [replace(request, again=name == _REISSUED) for name, request in queued if name in _FETCH_EVENTS]
        enqueue_fetches(self._services.queue, session, fetches)
        handled = [(name, request) for name, request in queued if name in HANDLED_EVENTS]
        enqueue_event_handling(self._services.queue, session, handled)
        return outcomes

    def _outcome(self, event: IncomingEvent) -> Outcome:
        if event.account_id != self._services.account_id:
            return "other_account"
        if event.certificate_id is None:
            return "ignored"
        return "overloaded" if self._overloaded else "queued"

    def _count_waiting(self, session: Session) -> None:
        """Check once per second whether too many jobs are unfinished, so that a flood of events is bounded."""
        now = time.monotonic()
        if now - self._counted_at < _COUNT_SECONDS:
            return
        waiting = select(Job.id).where(Job.finished_at.is_(None)).offset(self._most_waiting - 1).limit(1)
        self._overloaded, self._counted_at = session.scalar(waiting) is not None, now
        if self._overloaded:
            log.error("event queue overloaded", remedy="check `certcourier jobs list --state ready` for forged events")


def _object(parent: dict[str, Any], field: str, path: str | None = None) -> dict[str, Any]:
    value = parent.get(field)
    if not isinstance(value, dict):
        raise InvalidEventError(f"{path or field} is not an object")
    return value


def _text(document: dict[str, Any], field: str, longest: int) -> str:
    value = document.get(field)
    if not isinstance(value, str) or not value or len(value) > longest or not value.isprintable():
        raise InvalidEventError(f"{field} is not a string of 1 to {longest} printable characters")
    return value


def _id(parent: dict[str, Any], field: str, path: str) -> int:
    value = parent.get(field)
    if not is_id(value):
        raise InvalidEventError(f"{path} is not a positive integer of at most 63 bits")
    return value
