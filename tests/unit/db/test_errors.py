"""The operator's message when the database fails."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from app.db.errors import explain_failure


@pytest.mark.parametrize("rest", ['could not translate host name "cret@db.example"', "no host cret@db.example"])
def test_part_of_a_password_is_not_shown(rest: str) -> None:
    meaning, remedy = explain_failure(OperationalError("SELECT 1", {}, Exception(f"{rest}\nand more")))
    assert "cret" not in meaning + remedy
    assert "and more" not in meaning
    assert "DATABASE_URL" in remedy
