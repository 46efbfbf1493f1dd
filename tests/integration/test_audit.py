"""The audit trail: nothing in it can be altered, moved or removed without being found."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app import audit
from app.db.database import Database
from app.db.installation_state import AUDIT_HEAD
from app.db.models import AuditEntry
from app.services import Services
from tests.support.command_line import run

pytestmark = pytest.mark.both_databases


def write(database: Database, count: int = 5) -> None:
    for number in range(count):
        with database.write() as session:
            audit.record(session, actor="system", action="test.done", subject=f"thing {number}", detail={"n": number})


def tamper(database: Database, *statements: str) -> None:
    """As a superuser would, past the triggers."""
    drop = (
        ("DROP TRIGGER audit_refuses_update", "DROP TRIGGER audit_refuses_delete")
        if database.is_sqlite
        else ("DROP TRIGGER audit_is_append_only ON audit",)
    )
    with database.write() as session:
        for statement in (*drop, *statements):
            session.connection().exec_driver_sql(statement)


def broken(database: Database, known: audit.Head | None = None) -> audit.AuditBrokenError:
    with database.read() as session, pytest.raises(audit.AuditBrokenError) as caught:
        audit.verify(session, known=known)
    return caught.value


def test_an_untouched_trail_is_unbroken(database: Database) -> None:
    with database.read() as session:
        assert audit.verify(session).number == 0
    write(database)
    with database.read() as session:
        assert audit.verify(session).number == 5


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET actor = 'somebody' WHERE id = 3",
        "UPDATE audit SET action = 'test.undone' WHERE id = 3",
        "UPDATE audit SET subject = 'nothing' WHERE id = 3",
        "UPDATE audit SET detail = '{\"n\":7}' WHERE id = 3",
        "UPDATE audit SET detail = 'no json' WHERE id = 3",
        "UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE id = 3",
        "UPDATE audit SET hash = previous_hash WHERE id = 3",
        "UPDATE audit SET previous_hash = hash WHERE id = 3",
        "DELETE FROM audit WHERE id = 3",
    ],
)
def test_the_first_entry_that_was_altered_or_removed_is_named(database: Database, change: str) -> None:
    write(database)
    tamper(database, change)
    assert broken(database).number == 3


def test_entries_that_changed_places_are_found(database: Database) -> None:
    write(database)
    tamper(
        database,
        "UPDATE audit SET id = 99 WHERE id = 2",
        "UPDATE audit SET id = 2 WHERE id = 3",
        "UPDATE audit SET id = 3 WHERE id = 99",
    )
    assert broken(database).number == 2


def test_a_gap_that_was_closed_by_renumbering_is_found(database: Database) -> None:
    write(database)
    tamper(
        database,
        "DELETE FROM audit WHERE id = 3",
        "UPDATE audit SET id = 3 WHERE id = 4",
        "UPDATE audit SET id = 4 WHERE id = 5",
    )
    assert broken(database).number == 3


def test_an_end_that_was_cut_off_is_found(database: Database) -> None:
    write(database)
    tamper(database, "DELETE FROM audit WHERE id >= 4")
    assert broken(database).number == 4


def test_a_trail_that_was_emptied_is_found(database: Database) -> None:
    write(database)
    tamper(database, "DELETE FROM audit")
    assert broken(database).number == 1


def test_a_noted_head_that_was_garbled_is_found(database: Database) -> None:
    write(database)
    with database.write() as session:
        AUDIT_HEAD.set(session, "5")
    assert "head" in str(broken(database))


def test_a_whole_trail_that_was_written_anew_is_found_by_a_head_noted_elsewhere(database: Database) -> None:
    write(database, 3)
    with database.read() as session:
        noted = audit.verify(session)
    tamper(database, "DELETE FROM audit", "DELETE FROM installation_state WHERE name = 'audit_head'")
    write(database, 5)
    with database.read() as session:
        assert audit.verify(session).number == 5
    assert broken(database, noted).number == 3


def test_the_database_refuses_changes_and_deletions(database: Database) -> None:
    write(database)
    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.execute(text(statement))
    if not database.is_sqlite:
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.execute(text("TRUNCATE audit"))
    with database.read() as session:
        assert audit.verify(session).number == 5


def test_an_entry_lives_and_dies_with_its_transaction(database: Database) -> None:
    write(database, 1)
    with pytest.raises(RuntimeError), database.write() as session:
        audit.record(session, actor="system", action="test.failed", subject="x")
        raise RuntimeError
    with database.read() as session:
        assert audit.verify(session).number == 1


def test_writers_at_the_same_time_make_one_chain(database: Database) -> None:
    def work(worker: int) -> None:
        for number in range(10):
            with database.write() as session:
                audit.record(session, actor=f"token:{worker} x", action="test.done", subject=str(number))
                audit.record(session, actor=f"token:{worker} x", action="test.done", subject=str(number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    with database.read() as session:
        assert audit.verify(session).number == 120
        actors = session.scalars(select(AuditEntry.actor).order_by(AuditEntry.id)).all()
    assert actors[0::2] == actors[1::2]  # what a transaction did stands together


def test_a_trail_is_exported_as_json_lines_that_anybody_can_follow(app: Flask, services: Services) -> None:
    write(services.database, 3)
    lines = [json.loads(line) for line in run(app, "audit", "export").splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3]
    assert [line["previous_hash"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
    assert lines[2]["detail"] == {"n": 2}


def test_a_trail_of_several_batches_is_followed_to_its_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_BATCH", 2)
    write(database)
    with database.read() as session:
        assert audit.verify(session).number == 5
    tamper(database, "UPDATE audit SET actor = 'x' WHERE id = 5")
    assert broken(database).number == 5


def test_verify_prints_the_head_and_fails_on_a_broken_trail(app: Flask, services: Services) -> None:
    write(services.database, 3)
    head = run(app, "audit", "verify").splitlines()[-1]
    assert run(app, "audit", "verify", "--known", head).splitlines()[-1] == head
    assert "NUMBER:HASH" in run(app, "audit", "verify", "--known", "3", status=2)
    tamper(services.database, "UPDATE audit SET actor = 'x' WHERE id = 2")
    assert "entry 2" in run(app, "audit", "verify", status=1)


def test_the_newest_entries_are_listed_first(app: Flask, services: Services) -> None:
    assert "No audit entries" in run(app, "audit", "list")
    write(services.database, 3)
    listed = json.loads(run(app, "audit", "list", "--limit", "2", "--json"))
    assert [entry["number"] for entry in listed] == [3, 2]
    assert "thing 2" in run(app, "audit", "list")
