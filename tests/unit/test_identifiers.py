"""DNSimple's numeric IDs, as numbers and as text."""

from __future__ import annotations

import pytest

from app.identifiers import LARGEST_ID, is_id, parse_id


@pytest.mark.parametrize("value", [1, LARGEST_ID])
def test_a_positive_integer_of_63_bits_is_an_id(value: int) -> None:
    assert is_id(value)
    assert parse_id(str(value)) == value


@pytest.mark.parametrize("value", [0, -1, LARGEST_ID + 1, True, 1.0, "1", None])
def test_nothing_else_is_an_id(value: object) -> None:
    assert not is_id(value)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", " 1", "1.0", "0x1", "²", "\u0661", str(LARGEST_ID + 1), "9" * 5000]
)
def test_a_text_that_is_not_an_id_is_refused(text: str) -> None:
    assert parse_id(text) is None
