"""The story of a certificate: one line per step, in the log and in the database, never with a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.db.models import Event, TimelineEntry

log = structlog.get_logger("certcourier")

Step = Literal[
    "ordered",
    "purchased",
    "adopted",
    "pending",
    "event received",
    "issued",
    "downloaded",
    "verified",
    "delivered",
    "superseded",
    "served",
    "stale",
    "unreachable",
    "failed",
    "early renewal",
    "renewal ordered",
    "left",
    "auto-renewal failed",
    "auto-renewal changed",
    "private key removed",
]


def record_event_step(session: Session, event_id: object, *, order_id: str | None, certificate_id: int) -> None:
    """That an event has brought us here, if one did; `event_id` is its `request_identifier`."""
    event = session.scalar(select(Event).where(Event.request_identifier == event_id)) if event_id else None
    if event is not None:
        record_step(
            session,
            "event received",
            event.name,
            order_id=order_id,
            certificate_id=certificate_id,
            at=event.received_at,
        )


def record_step(
    session: Session,
    step: Step,
    detail: str,
    *,
    order_id: str | None,
    certificate_id: int | None,
    at: datetime | None = None,
) -> None:
    """Add a line in the transaction that takes the step; `at` is given when the step itself was earlier."""
    session.add(
        TimelineEntry(step=step, detail=detail, order_id=order_id, certificate_id=certificate_id, at=at or db_now())
    )
    log.info(step, detail=detail, order_id=order_id, certificate_id=certificate_id)
