"""How a worker starts, and how it records the outcome of a job."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.models import InstallationState
from app.destinations.base import Bundle, DeliveryResult, DestinationConfig
from app.errors import AccountBlockedError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim
from app.operations.health import check_destinations
from app.services import Services
from app.worker.handlers import HANDLERS, Handler
from app.worker.worker import run_job
from tests.support.harness import drain, jobs, let_leases_end, make_due

pytestmark = pytest.mark.both_databases


def test_a_job_that_fails_after_its_lease_was_lost_is_logged_as_lost(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(services, Claim(id=4567, kind="no such kind", token="worthless"))
    output = capsys.readouterr().err
    assert "job lost" in output
    assert "job 4567 (no such kind) is no longer ours" in output


def test_the_worker_completes_a_job_whose_handler_just_returns(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setitem(HANDLERS, "prune", Handler(lambda _services, claim: calls.append(claim.id)))
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE)
    assert drain(services) == ["prune"]
    let_leases_end(services)
    assert drain(services) == []
    (job,) = jobs(services, "prune")
    assert (job.state, job.key) == ("done", None)
    assert calls == [job.id]


def test_a_handler_that_returns_after_its_lease_was_lost_completes_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def freeze(services: Services, claim: Claim) -> None:  # noqa: ARG001
        let_leases_end(services)
        services.queue.claim(1, worker_id="another")

    monkeypatch.setitem(HANDLERS, "prune", Handler(freeze))
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE)
    (claim,) = services.queue.claim(1, worker_id="test")
    run_job(services, claim)
    (job,) = jobs(services, "prune")
    assert (job.state, job.worker_id) == ("running", "another")
    output = capsys.readouterr().err
    assert "job lost" in output
    assert "job done" not in output


def test_a_handler_that_commits_its_completion_is_not_completed_again(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(services: Services, claim: Claim) -> None:
        with services.queue.finishing(claim):
            return

    monkeypatch.setitem(HANDLERS, "prune", Handler(finish))
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE)
    assert drain(services) == ["prune"]
    (job,) = jobs(services, "prune")
    assert job.state == "done"
    assert "job lost" not in capsys.readouterr().err


def test_a_job_waits_while_the_account_is_blocked(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class InvoiceUnpaidError(AccountBlockedError):
        remedy = "pay the invoice"

    def refuse(services: Services, claim: Claim) -> None:  # noqa: ARG001
        raise InvoiceUnpaidError("unpaid")

    monkeypatch.setitem(HANDLERS, "prune", Handler(refuse))
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE)
    assert drain(services) == ["prune"]
    (job,) = jobs(services, "prune")
    error = "account blocked: unpaid; pay the invoice"
    assert (job.state, job.attempts, job.snoozes, job.last_error) == ("ready", 0, 1, error)
    assert "pay the invoice" in capsys.readouterr().err


def test_a_job_that_deadlocks_with_another_transaction_is_retried_soon(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two transactions that wait for each other in a circle: PostgreSQL ends one of them, here the job's."""
    if services.database.is_sqlite:
        return  # its writers take turns
    both_have_one = threading.Barrier(2)
    with services.database.write() as session:
        session.add_all([InstallationState(name=name, value="") for name in ("ours", "theirs")])
        services.queue.enqueue(session, JobKind.PRUNE)

    def lock(session: Session, first: str, second: str) -> None:
        session.get_one(InstallationState, first, with_for_update=True)
        if not both_have_one.broken:
            both_have_one.wait(10)
        session.get_one(InstallationState, second, with_for_update=True)

    def prune(services: Services, claim: Claim) -> None:
        with services.queue.finishing(claim) as session:
            session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))  # it looks first, so it is the one to go
            lock(session, "ours", "theirs")

    def meet() -> None:
        with services.database.write() as session:
            lock(session, "theirs", "ours")

    monkeypatch.setitem(HANDLERS, "prune", Handler(prune))
    other = threading.Thread(target=meet)
    other.start()
    (claim,) = services.queue.claim(1, worker_id="test")
    run_job(services, claim)
    other.join()
    (job,) = jobs(services, "prune")
    assert (job.state, job.last_error) == ("ready", "deadlock")
    output = capsys.readouterr().err
    assert "job will be retried" in output
    assert "unexpected" not in output
    both_have_one.abort()
    make_due(services)
    assert drain(services) == ["prune"]


@dataclass
class Hanging:
    """A destination on a disk that does not answer."""

    config: ClassVar = DestinationConfig(name="hanging", timeout_seconds=0.05)
    let_go: threading.Event = field(default_factory=threading.Event)

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        raise NotImplementedError

    def check(self) -> None:
        self.let_go.wait()


def test_a_destination_that_hangs_does_not_keep_a_worker_from_starting(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging = Hanging()
    check_destinations({"hanging": hanging, **services.destinations}, services.time_limits)
    hanging.let_go.set()
    assert "hanging did not finish within 0.05 seconds" in capsys.readouterr().err
