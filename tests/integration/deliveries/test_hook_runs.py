"""Destinations that come after others, and one run for many: nothing runs too early, too often, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.db.clock import db_now
from app.db.models import Certificate, Delivery, HookRun, Job, Lineage
from app.deliveries.delivery import enqueue_delivery
from app.destinations.base import (
    Bundle,
    Change,
    DeliveryResult,
    Destination,
    DestinationConfig,
    DestinationUnavailableError,
)
from app.destinations.command import CommandConfig, CommandDestination
from app.destinations.files.destination import FilesConfig, FilesDestination
from app.operations.job_retry import retry_job
from app.services import Services
from app.worker.worker import run_job
from tests.support.encrypted_keys import encrypt_key
from tests.support.harness import drain, jobs, let_leases_end, make_due, make_services, make_settings

pytestmark = pytest.mark.both_databases

START = datetime(2026, 11, 1, tzinfo=UTC)
CHANGES = 100


class Hook:
    """Shares runs, each of which notes which certificates it was told of, and which were in place just then."""

    def __init__(self, *, after: tuple[str, ...] = ("web",), min_interval_seconds: float | None = 0.0) -> None:
        self.config = DestinationConfig(name="hook", after=after)
        self.min_interval_seconds = min_interval_seconds
        self.runs: list[list[int]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.broken = False

    def run(self, changes: Sequence[Change]) -> str:
        self.runs.append([change.certificate_id for change in changes])
        self.meanwhile()
        if self.broken:
            raise DestinationUnavailableError("exited with 1")
        return "done"

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        return DeliveryResult("delivered", self.run([bundle.change]))

    def check(self) -> None:
        raise NotImplementedError


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
def services(database_url: str, tmp_path: Path, hook: Hook) -> Services:
    """Services with a files destination, and a hook after it."""
    return with_destinations(make_services(settings(database_url, tmp_path)), tmp_path, hook)


def settings(database_url: str, tmp_path: Path) -> Any:
    return make_settings(database_url, "http://127.0.0.1:9", tmp_path / "var")


def with_destinations(services: Services, tmp_path: Path, hook: Destination) -> Services:
    web = FilesDestination(FilesConfig(name="web", path=tmp_path / "web"))
    return replace(services, destinations={"web": web, hook.config.name: hook})


def owe(services: Services, *numbers: int, to: Sequence[str] = ("web", "hook"), slot: str | None = None) -> None:
    """Certificates on record, with their deliveries. The jobs of `web` come first."""
    with services.database.write() as session:
        for number in numbers:
            name = slot or f"www.customer{number}.example"
            lineage = session.scalar(select(Lineage).filter_by(name=name))
            if lineage is None:
                lineage = Lineage(account_id=1010, domain=name, names_digest=name, name=name)
                session.add(lineage)
                session.flush()
            certificate = Certificate(
                id=number, account_id=1010, domain=name, state="issued", common_name=name, names=[name],
                lineage_id=lineage.id, fingerprint=f"{number:064x}", leaf_pem=f"leaf {number}\n",
                chain_pem="chain\n", not_before=START + timedelta(days=number), fetched_at=START,
                encrypted_key=encrypt_key(services.encryptor, number, f"key {number}\n"),
            )  # fmt: skip
            session.add(certificate)
            session.flush()
            for destination in to:
                enqueue_delivery(services.queue, services.destinations, session, number, destination)


def states(services: Services, destination: str = "hook") -> dict[int, str]:
    with services.database.read() as session:
        rows = session.scalars(select(Delivery).filter_by(destination=destination).order_by(Delivery.certificate_id))
        return {row.certificate_id: row.state for row in rows}


def detail(services: Services, certificate_id: int, destination: str = "hook") -> str:
    with services.database.read() as session:
        query = select(Delivery).filter_by(certificate_id=certificate_id, destination=destination)
        delivery = session.scalars(query).one()
        return delivery.blocked_by or delivery.detail or ""


def test_a_hook_runs_at_once_when_the_files_are_there_and_not_before(
    services: Services, hook: Hook, tmp_path: Path
) -> None:
    there = []
    hook.meanwhile = lambda: there.append((tmp_path / "web/www.customer1.example/cert.pem").read_text())
    owe(services, 1)
    assert drain(services) == ["deliver", "deliver"]  # nobody had to make a job due
    assert there == ["leaf 1\n"]
    assert states(services) == {1: "delivered"}
    assert detail(services, 1) == "done (run 1)"


def test_a_hook_whose_turn_comes_too_early_waits_without_counting_an_attempt(services: Services, hook: Hook) -> None:
    owe(services, 1)
    with services.database.write() as session:  # as if it were the first of the two to be claimed
        session.execute(update(Job).where(Job.key == "deliver:1:hook").values(run_at=db_now(-60)))
    (claim,) = services.queue.claim(1, worker_id="test")
    run_job(services, claim)
    assert hook.runs == []
    waiting = next(job for job in jobs(services) if job.key == "deliver:1:hook")
    assert (waiting.state, waiting.attempts, waiting.snoozes) == ("ready", 0, 1)
    assert detail(services, 1) == "waits for web, where this certificate is pending"
    with services.database.read() as session:
        assert not session.scalars(
            select(Delivery).where(Delivery.is_unsuccessful())
        ).all()  # it only waits for its turn
    drain(services)
    assert hook.runs == [[1]]


def test_a_hook_waits_for_files_that_failed_and_runs_when_they_were_retried(
    services: Services, hook: Hook, tmp_path: Path
) -> None:
    (tmp_path / "web").write_text("no folder")
    owe(services, 1)
    with services.database.write() as session:
        session.execute(update(Job).where(Job.key == "deliver:1:web").values(max_attempts=1))
    drain(services)
    make_due(services)
    drain(services)
    assert hook.runs == []
    assert detail(services, 1) == "waits for web, where this certificate is failed"
    (tmp_path / "web").unlink()
    (dead,) = [job.id for job in jobs(services) if job.state == "dead"]
    with services.database.write() as session:
        assert retry_job(services.queue, session, dead, actor="tests")
    drain(services)
    assert states(services) == {1: "delivered"}
    assert hook.runs == [[1]]


def test_a_hook_that_was_given_up_gets_its_certificate_when_it_is_retried(services: Services, hook: Hook) -> None:
    owe(services, 1)
    hook.broken = True
    with services.database.write() as session:
        session.execute(update(Job).where(Job.key == "deliver:1:hook").values(max_attempts=1))
    drain(services, ahead=True)
    assert states(services) == {1: "failed"}
    hook.broken, hook.runs = False, []
    (dead,) = [job.id for job in jobs(services) if job.state == "dead"]
    with services.database.write() as session:
        assert retry_job(services.queue, session, dead, actor="tests")
        assert not retry_job(services.queue, session, dead, actor="tests")
    drain(services)
    assert states(services) == {1: "delivered"}
    assert hook.runs == [[1]]


def test_a_hook_after_files_that_hold_a_newer_certificate_does_not_run(services: Services, hook: Hook) -> None:
    owe(services, 2, 1, slot="www.customer.example")
    drain(services)
    assert states(services) == {1: "superseded", 2: "delivered"}
    assert hook.runs == [[2]]


def test_a_hook_after_a_destination_that_never_gets_the_certificate_says_what_to_change(
    services: Services, hook: Hook
) -> None:
    owe(services, 1, to=("hook",))
    make_due(services)
    drain(services)
    assert states(services) == {1: "failed"}
    assert "add its names to `domains` of web" in detail(services, 1)
    assert hook.runs == []


def test_all_that_are_in_place_share_one_run_and_those_that_are_not_wait_for_theirs(
    services: Services, hook: Hook
) -> None:
    owe(services, *range(1, 21))
    with services.database.write() as session:  # 16 to 20 are not in place yet
        session.execute(
            update(Job).where(Job.key.in_([f"deliver:{n}:web" for n in range(16, 21)])).values(run_at=db_now(3600))
        )
    for _ in range(15):
        (claim,) = services.queue.claim(1, worker_id="test")
        assert claim.args["destination"] == "web"
        run_job(services, claim)
    drain(services)
    assert hook.runs == [list(range(1, 16))]
    make_due(services)
    drain(services)
    assert set(states(services).values()) == {"delivered"}
    assert sorted(number for run in hook.runs for number in run) == list(range(1, 21))


def test_what_comes_into_place_while_a_run_goes_on_is_served_by_the_next(services: Services, hook: Hook) -> None:
    def another_comes() -> None:
        hook.meanwhile = lambda: None
        owe(services, 2)
        for _ in range(2):
            make_due(services)
            for claim in services.queue.claim(2, worker_id="other"):
                run_job(services, claim)
        assert states(services, "web")[2] == "delivered"
        assert states(services)[2] == "pending"
        assert "waits for run 1 of hook" in detail(services, 2)

    hook.meanwhile = another_comes
    owe(services, 1)
    drain(services, ahead=True)
    assert hook.runs == [[1], [2]]
    assert states(services) == {1: "delivered", 2: "delivered"}


def test_the_next_run_waits_for_the_pause(services: Services, hook: Hook) -> None:
    hook.min_interval_seconds = 3600.0
    owe(services, 1)
    drain(services)
    owe(services, 2, 3)
    drain(services)
    assert hook.runs == [[1]]
    with services.database.write() as session:
        session.execute(update(HookRun).values(started_at=db_now(-3600)))
    make_due(services)
    drain(services)
    assert hook.runs == [[1], [2, 3]]


def test_a_failed_run_counts_once_for_each_and_one_that_succeeds_serves_all(services: Services, hook: Hook) -> None:
    hook.broken = True
    owe(services, 1, 2, 3)
    for _ in range(3):
        (claim,) = services.queue.claim(1, worker_id="test")
        run_job(services, claim)
    drain(services)
    assert hook.runs == [[1, 2, 3]]
    waiting = [job for job in jobs(services) if job.state == "ready"]
    assert [(job.attempts, job.last_error) for job in waiting] == [(1, "exited with 1")] * 3
    assert detail(services, 3) == "exited with 1"
    hook.broken = False
    make_due(services)
    drain(services)
    assert len(hook.runs) == 2
    assert set(states(services).values()) == {"delivered"}


def test_a_run_whose_process_was_killed_is_made_again_by_whoever_looks_next(services: Services, hook: Hook) -> None:
    owe(services, 1, 2)
    for _ in range(2):
        (claim,) = services.queue.claim(1, worker_id="test")
        run_job(services, claim)

    class Killed(BaseException):
        pass

    def die() -> None:
        hook.meanwhile = lambda: None
        raise Killed

    hook.meanwhile = die
    (claim,) = services.queue.claim(1, worker_id="dying")
    with pytest.raises(Killed):
        run_job(services, claim)
    drain(services)
    assert hook.runs == [[1, 2]]  # the other one waits: the run may be going on
    assert set(states(services).values()) == {"pending"}
    let_leases_end(services)
    make_due(services)
    drain(services)
    assert hook.runs == [[1, 2], [1, 2]]
    assert set(states(services).values()) == {"delivered"}
    with services.database.read() as session:
        assert session.scalars(select(HookRun.state).order_by(HookRun.id)).all() == ["abandoned", "succeeded"]


def test_a_maker_that_was_thought_dead_changes_nothing_when_it_wakes(services: Services, hook: Hook) -> None:
    owe(services, 1)
    (claim,) = services.queue.claim(1, worker_id="test")
    run_job(services, claim)

    def freeze() -> None:
        hook.meanwhile = lambda: None
        let_leases_end(services)
        hook.broken = True
        drain(services)
        hook.broken = False

    hook.meanwhile = freeze
    (claim,) = services.queue.claim(1, worker_id="freezing")
    run_job(services, claim)
    assert states(services) == {1: "failing"}  # its own run came to nothing, the other one failed
    with services.database.read() as session:
        assert session.scalars(select(HookRun.state).order_by(HookRun.id)).all() == ["abandoned", "failed"]
    make_due(services)
    drain(services)
    assert states(services) == {1: "delivered"}


def test_a_hook_for_each_certificate_runs_for_each(services: Services, hook: Hook) -> None:
    hook.min_interval_seconds = None
    owe(services, 1, 2, 3)
    drain(services)
    assert sorted(hook.runs) == [[1], [2], [3]]


def test_many_changes_by_two_workers_make_a_few_runs_and_each_certificate_is_in_one_after_it_was_in_place(
    database_url: str, tmp_path: Path
) -> None:
    """The program itself notes which certificates it finds in place as it starts, and of which it is told."""
    noted = tmp_path / "noted"
    noted.mkdir()
    program = (
        "import json, os, pathlib, sys\n"
        "told = [json.loads(line) for line in sys.stdin]\n"
        "missing = [line['lineage'] for line in told if not pathlib.Path(line['places']['cert']).exists()]\n"
        "ids = [line['certificate_id'] for line in told]\n"
        "pathlib.Path(sys.argv[1], f'{os.getpid()}').write_text(json.dumps([ids, missing]))\n"
    )
    config = {
        "name": "hook",
        "after": "web",
        "command": ["python3", "-c", program, str(noted)],
        "min_interval_seconds": 1,
    }
    hook = CommandDestination(CommandConfig.model_validate(config))
    workers = [with_destinations(make_services(settings(database_url, tmp_path)), tmp_path, hook) for _ in range(2)]
    owe(workers[0], *range(1, CHANGES + 1))
    ended = threading.Event()

    def work(services: Services) -> None:
        while not ended.is_set():
            claims = services.queue.claim(4, worker_id="test")
            for claim in claims:
                run_job(services, claim)
            if not claims and all(job.finished_at for job in jobs(services)):
                ended.set()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, services) for services in workers * 2]:
            done.result()
    assert set(states(workers[0]).values()) == {"delivered"}
    runs = [json.loads(path.read_text()) for path in noted.iterdir()]
    assert [missing for _, missing in runs if missing] == []
    assert sorted({number for ids, _ in runs for number in ids}) == list(range(1, CHANGES + 1))
    assert len(runs) <= CHANGES / 4
    print(f"{CHANGES} changes, {len(runs)} runs")
