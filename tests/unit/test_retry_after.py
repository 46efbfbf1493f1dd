"""The header Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retry_after import parse_retry_after

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("0", 30),
        ("9" * 5000, 3600),
        ("Thu, 26 Nov 2026 12:10:00 GMT", 600),
        ("Thu, 26 Nov 2026 13:10:00 +0100", 600),
        ("Thu, 26 Nov 2026 12:10:00 -0000", 600),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 30),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ],
)
def test_both_forms_are_seconds_within_bounds(text: str, seconds: float) -> None:
    assert parse_retry_after(text, now=NOW, least=30, most=3600) == seconds


@pytest.mark.parametrize("text", [None, "", "soon", "-5", "1.5", "1e9", "nan", "²", "Thu, 32 Nov 2026 12:10:00 GMT"])
def test_an_absent_or_malformed_header_is_none(text: str | None) -> None:
    assert parse_retry_after(text, now=NOW) is None


def test_the_delay_is_at_most_a_day_by_default() -> None:
    assert parse_retry_after("9999999", now=NOW) == 86_400


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9} [-+A-Z0-9]{0,9}"))
def test_no_text_raises(text: str) -> None:
    seconds = parse_retry_after(text, now=NOW)
    assert seconds is None or 0 <= seconds <= 86_400
