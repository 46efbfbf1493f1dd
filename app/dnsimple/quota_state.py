"""What is known of the account's API quota at this moment, for pages, commands, metrics and alerts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.db.models import Quota


@dataclass(frozen=True, slots=True)
class QuotaState:
    """DNSimple's API calls in the present window. `paused_until` is None while calls with our token can be made."""

    limit: int
    remaining: int
    resets_at: datetime | None
    window_seconds: int
    in_flight: int
    unknown_left: int
    paused_until: datetime | None
    paused_because: str | None
    token_rejected: bool


def quota_state(session: Session, *, account_id: int, token_digest: str, now: datetime) -> QuotaState | None:
    """The state for calls with this token, or None until the first call was made.

    What the row holds about a window that has ended no longer applies; a pause that another token caused is not ours.
    """
    row = session.get(Quota, account_id)
    if row is None:
        return None
    ended = now >= row.reset_at
    ours = row.blocked_token in {None, token_digest}
    paused_until = row.blocked_until if ours and row.blocked_until and row.blocked_until > now else None
    return QuotaState(
        limit=row.call_limit,
        remaining=row.call_limit if ended else row.remaining,
        resets_at=None if ended else row.reset_at,
        window_seconds=row.window_seconds,
        in_flight=0 if ended else row.in_flight,
        unknown_left=row.unknown_left,
        paused_until=paused_until,
        paused_because=row.blocked_reason if paused_until else None,
        token_rejected=row.blocked_token is not None and row.blocked_token == token_digest,
    )
