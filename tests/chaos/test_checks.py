"""The checks of a campaign find what they are there to find."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from app.db.database import Database
from app.db.models import InstallationState, Job, WebhookSecret
from tests.chaos.checks import files_with_keys, holds_key, tables_with_keys
from tests.support.x509 import Authority

pytestmark = pytest.mark.both_databases

KEY = Authority().issue("customer.example").key


def test_a_database_without_a_private_key_holds_none(database: Database) -> None:
    with database.write() as session:
        session.add(Job(kind="prune", args={"certificate_id": 1}, last_error="hopeless"))
    assert list(tables_with_keys(database)) == []


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("jobs", Job(kind="prune", args={}, last_error=f"cannot use {KEY}")),
        ("jobs", Job(kind="prune", args={"key": KEY})),
        ("installation_state", InstallationState(name="note", value=base64.b64encode(KEY.encode()).decode())),
        ("webhook_secrets", WebhookSecret(digest="x", encrypted=KEY.encode())),
    ],
    ids=["text", "json", "base64", "bytes"],
)
def test_a_private_key_in_any_column_is_found(database: Database, table: str, row: object) -> None:
    with database.write() as session:
        session.merge(row)
    assert list(tables_with_keys(database)) == [f"table {table}"]


def test_a_private_key_in_a_file_is_found_unless_it_is_a_delivered_one(tmp_path: Path) -> None:
    for name in ("web.log", "var/metrics/counter.db", "var/certificates/www.customer.example/privkey.pem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" + KEY.encode())
    found = files_with_keys(tmp_path, but=tmp_path / "var" / "certificates")
    assert sorted(found) == ["var/metrics/counter.db", "web.log"]


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_private_key_in_base64_is_found_at_any_offset(shift: int) -> None:
    assert holds_key(base64.b64encode(b"x" * shift + KEY.encode()))
