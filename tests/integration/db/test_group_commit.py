"""Group commit: each thread returns after its own item is committed, or learns that it is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db.database import Database
from app.db.group_commit import GroupCommit
from app.db.models import Event, InstallationState
from app.events.ingestion import EventIngestion, IncomingEvent
from app.services import Services
from tests.support.harness import ACCOUNT, jobs

pytestmark = pytest.mark.both_databases


def test_each_event_is_recorded_once_and_each_caller_gets_its_result(services: Services) -> None:
    ingestion, commits = EventIngestion(services), []
    event.listen(services.database.engine, "commit", lambda _: commits.append(1))
    events = [
        IncomingEvent(f"event-{number % 100}", "certificate.issue", ACCOUNT, 1000 + number % 50, 7)
        for number in range(300)
    ]
    with ThreadPoolExecutor(64) as pool:
        outcomes = list(pool.map(ingestion.record, events))
    assert outcomes.count("queued") == 100
    assert outcomes.count("duplicate") == 200
    assert len(commits) < 150
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 100
    installs = jobs(services, "fetch_certificate")
    assert sorted(job.args["certificate_id"] for job in installs) == list(range(1000, 1050))


def put(session: Session, names: Sequence[str]) -> list[str]:
    for name in names:
        if name == "bad":
            raise ValueError("not this one")
        session.add(InstallationState(name=name, value=""))
    return list(names)


class Gate:
    """Lets the first transaction wait until the others have queued up behind it."""

    def __init__(self) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def put(self, session: Session, names: Sequence[str]) -> list[str]:
        self.sizes.append(len(names))
        self.started.set()
        assert self.go_on.wait(10)
        return put(session, names)


def names(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(InstallationState.name)))


def test_items_submitted_during_a_commit_are_committed_together(database: Database) -> None:
    gate = Gate()
    shared = GroupCommit(database, gate.put)
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(shared.submit, "first")
        assert gate.started.wait(10)
        others = [pool.submit(shared.submit, f"other{number}") for number in range(9)]
        while shared._waiting.qsize() < 9:
            threading.Event().wait(0.001)
        gate.go_on.set()
        assert first.result() == "first"
        assert [other.result() for other in others] == [f"other{number}" for number in range(9)]
    assert gate.sizes == [1, 9]
    assert len(names(database)) == 10


def test_an_item_that_fails_does_not_fail_others(database: Database) -> None:
    gate = Gate()
    shared = GroupCommit(database, gate.put)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(shared.submit, "first")
        assert gate.started.wait(10)
        good, bad, fine = (pool.submit(shared.submit, name) for name in ("good", "bad", "fine"))
        while shared._waiting.qsize() < 3:
            threading.Event().wait(0.001)
        gate.go_on.set()
        with pytest.raises(ValueError, match="not this one"):
            bad.result()
        assert [first.result(), good.result(), fine.result()] == ["first", "good", "fine"]
    assert names(database) == {"first", "good", "fine"}


def test_a_database_failure_reaches_every_caller_and_commits_nothing(database: Database) -> None:
    calls: list[int] = []

    def fail(session: Session, names: Sequence[str]) -> list[str]:
        calls.append(len(names))
        put(session, names)
        if len(calls) < 100:
            session.flush()
            session.execute(text("SELECT no_such_function()"))
        return list(names)

    shared = GroupCommit(database, fail)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(shared.submit, f"name{number}") for number in range(8)]:
            with pytest.raises(DBAPIError):
                future.result()
    assert names(database) == set()
    calls.extend([0] * 100)
    assert shared.submit("later") == "later"
    assert names(database) == {"later"}


def test_a_child_process_has_its_own_writer(database: Database) -> None:
    shared = GroupCommit(database, put)
    shared.submit("parent")
    child = os.fork()
    if child == 0:
        shared.submit("child")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    shared.submit("parent again")
    assert names(database) == {"parent", "child", "parent again"}


def test_batches_of_two_processes_never_deadlock(services: Services) -> None:
    if services.database.is_sqlite:
        return  # its writers take turns
    with services.database.write() as session:
        session.execute(text("SET deadlock_timeout = '10ms'"))
    intakes = [EventIngestion(services) for _ in range(4)]
    with ThreadPoolExecutor(64) as pool:
        outcomes = [
            pool.submit(
                intakes[number % 4].record,
                IncomingEvent(f"event-{number * 7919 % 97}", "certificate.issue", ACCOUNT, 1 + number * 31 % 89, 7),
            )
            for number in range(2000)
        ]
        assert sum(outcome.result() == "queued" for outcome in outcomes) == 97
