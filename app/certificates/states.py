"""The states that can be asked for; a mistyped one is an error and not an empty list."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth.scopes import only
from app.db.models import Certificate, OrderState
from app.domain_names import InvalidFieldError

ORDER_STATES = tuple(OrderState)
# DNSimple's words; those of its documentation, and it may invent others.
CERTIFICATE_STATES = (
    "new", "purchased", "configured", "submitted", "requesting",
    "issued", "rejected", "failed", "refunded", "cancelled",
)  # fmt: skip


def check_order_state(state: str | None) -> None:
    """Raise `InvalidFieldError` when an order cannot be in it."""
    if state is not None and state not in ORDER_STATES:
        raise _unknown(ORDER_STATES)


def check_certificate_state(session: Session, state: str | None, domains: Sequence[str] | None = None) -> None:
    """Raise `InvalidFieldError` when it is none of DNSimple's and no certificate that may be seen is in it."""
    if state is None or state in CERTIFICATE_STATES:
        return
    on_record = select(Certificate.id).where(Certificate.state == state, *only(domains, Certificate.domain)).limit(1)
    if session.scalar(on_record) is None:
        raise _unknown(CERTIFICATE_STATES)


def _unknown(states: Sequence[str]) -> InvalidFieldError:
    return InvalidFieldError("state", f"must be one of {', '.join(states)}")
