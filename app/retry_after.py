"""The header Retry-After (RFC 9110, section 10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_SECONDS = 86_400.0


def parse_retry_after(
    text: str | None, *, now: datetime, least: float = 0.0, most: float = _LONGEST_SECONDS
) -> float | None:
    """The delay in seconds, limited to `least` and `most`; None if the header is absent or malformed. Never raises.

    `now` is the sender's time where it is known: the header can be a date.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):  # the last one: a time zone out of range
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return min(most, max(least, seconds))
