"""The story of a certificate: one line per step, in the log and in the database, never with a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import structlog
from sqlalchemy.orm import Session

from app.storage.clock import db_now
from app.storage.models import StoryLine

log = structlog.get_logger("certcourier")

Step = Literal[
    "ordered",
    "purchased",
    "adopted",
    "requested",
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


def tell(
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
        StoryLine(step=step, detail=detail, order_id=order_id, certificate_id=certificate_id, at=at or db_now())
    )
    log.info(step, detail=detail, order_id=order_id, certificate_id=certificate_id)
