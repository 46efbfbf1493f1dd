"""Orders and the idempotency keys of their requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.clock import db_now
from app.db.models.base import Base
from app.db.models.states import OrderState, StateColumn


class Order(Base):
    """What a client asked for. Committed before the first call to DNSimple."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    client_id: Mapped[str | None] = mapped_column(ForeignKey("api_tokens.id"))
    domain: Mapped[str] = mapped_column(String(253))
    name: Mapped[str] = mapped_column(String(253))
    common_name: Mapped[str] = mapped_column(String(253))
    san: Mapped[list[str]]
    names: Mapped[list[str]]
    auto_renew: Mapped[bool]
    signature_algorithm: Mapped[str] = mapped_column(String(10))
    state: Mapped[OrderState] = mapped_column(StateColumn(OrderState))
    # The digest of what was asked for while the order is in flight, then null: two identical ones cannot both be.
    in_flight_key: Mapped[str | None] = mapped_column(String(64), unique=True)
    certificate_id: Mapped[int | None] = mapped_column(BigInteger)
    # Of a renewal that we make: the certificate to replace, and DNSimple's number of the renewal while it is known.
    renews_certificate_id: Mapped[int | None] = mapped_column(BigInteger)
    renewal_id: Mapped[int | None] = mapped_column(BigInteger)
    purchase_attempted_at: Mapped[datetime | None]
    failure: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    updated_at: Mapped[datetime] = mapped_column(default=db_now(), onupdate=db_now())

    __table_args__ = (
        Index(None, "certificate_id"),
        Index(None, "domain", "id"),
        Index(None, "state", "id"),
        Index(None, "renews_certificate_id"),
    )


class IdempotencyKey(Base):
    """The first answer to a request that carried an Idempotency-Key; null while it is being worked out."""

    __tablename__ = "idempotency_keys"

    client_id: Mapped[str] = mapped_column(ForeignKey("api_tokens.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id"))
    status: Mapped[int | None]
    body: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=db_now(), index=True)
