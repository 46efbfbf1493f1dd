"""The timeline of orders and certificates: an entry per step, in the log and in the database, never with a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.db.models import EndpointState, Event, TimelineEntry

log = structlog.get_logger("certcourier")

Step = Literal[
    "ordered",
    "purchased",
    "adopted",
    "issuance requested",
    "event received",
    "issued",
    "fetched",
    "verified",
    "delivered",
    "superseded",
    "failed",
    "early renewal requested",
    "renewal ordered",
    "abandoned",
    "auto-renewal failed",
    "auto-renewal changed",
    "private key removed",
]


def record_event_step(
    session: Session, request_identifier: str | None, *, order_id: str | None, certificate_id: int
) -> None:
    """Record the event that led to the next step, if an event did."""
    if request_identifier is None:
        return
    event = session.scalar(select(Event).where(Event.request_identifier == request_identifier))
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
    step: Step | EndpointState,
    detail: str,
    *,
    order_id: str | None,
    certificate_id: int | None,
    at: datetime | None = None,
) -> None:
    """Add an entry in the transaction that takes the step; `at` is given if the step itself was earlier."""
    session.add(
        TimelineEntry(step=step, detail=detail, order_id=order_id, certificate_id=certificate_id, at=at or db_now())
    )
    log.info(step, detail=detail, order_id=order_id, certificate_id=certificate_id)
