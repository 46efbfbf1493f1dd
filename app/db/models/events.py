"""Webhook events, the webhook's secrets and the timeline."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.clock import db_now
from app.db.models.base import AutoId, Base


class Event(Base):
    """A webhook event, once. Of its body only what we use: bodies can hold other webhooks' secret URLs."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    request_identifier: Mapped[str] = mapped_column(String(128), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    account_id: Mapped[int | None] = mapped_column(BigInteger)
    certificate_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    domain_id: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str] = mapped_column(String(20))
    received_at: Mapped[datetime] = mapped_column(default=db_now(), index=True)


class WebhookSecret(Base):
    """A secret part of the webhook's path. `encrypted` is bound to its digest.

    `current` is true for one row, else null.

    `accepted_until` is set once DNSimple posts to the URL no more; from then on nothing is taken under it.
    """

    __tablename__ = "webhook_secrets"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    encrypted: Mapped[bytes] = mapped_column(LargeBinary)
    current: Mapped[bool | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    accepted_until: Mapped[datetime | None]


class TimelineEntry(Base):
    """One step of a certificate's way, written in the transaction that took the step."""

    __tablename__ = "timeline"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    at: Mapped[datetime] = mapped_column(default=db_now())
    order_id: Mapped[str | None] = mapped_column(String(40), index=True)
    certificate_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    step: Mapped[str] = mapped_column(String(30))
    detail: Mapped[str] = mapped_column(Text)
