"""Open and resolved alerts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.clock import db_now
from app.db.models.base import AutoId, Base


class Alert(Base):
    """Something that is wrong, from when it was found until it is resolved. At most one of a kind and subject is open.

    `cleared_at`: not found any more, but perhaps only for a moment. `last_notified_at` and `recovery_notified_at`: when
    a notification about it was enqueued.
    """

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(400))
    since: Mapped[datetime]
    detail: Mapped[str] = mapped_column(Text)
    remedy: Mapped[str] = mapped_column(Text)
    raised_at: Mapped[datetime] = mapped_column(default=db_now())
    last_notified_at: Mapped[datetime | None]
    silenced_at: Mapped[datetime | None]
    cleared_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    recovery_notified_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "resolved_at"), Index(None, "kind", "last_notified_at"))
