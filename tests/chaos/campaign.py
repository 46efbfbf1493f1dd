"""A campaign: real processes, killed at random instants while orders come in and DNSimple misbehaves."""

from __future__ import annotations

import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests
from sqlalchemy import func, select, update

from app.db.database import Database
from app.db.models import Domain, Job
from app.jobs.kinds import PERIODS, JobKind
from app.jobs.queue import Queue
from tests.chaos.checks import Evidence, find_violations
from tests.chaos.clients import Clients
from tests.chaos.reader import Reader
from tests.support import databases
from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

RATES = {
    "slow": 0.02, "reset-before": 0.02, "reset-after": 0.02, "error-json": 0.02, "error-html": 0.01,
    "error-empty": 0.01, "error-after": 0.02, "half-body": 0.02, "unauthorized": 0.001, "unpaid": 0.002,
    "forbidden": 0.002, "plan-limit": 0.005, "not-issued": 0.05, "no-quota-headers": 0.02, "odd-quota-headers": 0.02,
    "event-doubled": 0.2, "event-delayed": 0.2, "event-reordered": 0.1, "event-dropped": 0.1, "event-early": 0.1,
    "event-forged": 0.1, "event-other-account": 0.05, "event-mixed": 0.05, "event-replayed": 0.1,
    "certificate-failed": 0.02, "certificate-rejected": 0.01, "certificate-cancelled": 0.01,
    "certificate-refunded": 0.01, "key-removed": 0.01, "chain-reversed": 0.03, "wrong-key": 0.02,
}  # fmt: skip
_SETTLE_SECONDS = 240
# Two or three processes are killed in turn, and take a second to start: most do some work before they die.
_PAUSES_SECONDS = (0.05, 2.5)


@dataclass(frozen=True, slots=True)
class Plan:
    """`plant` is the path of a gunicorn configuration with a bug in it."""

    database: str
    kills: int
    seed: int = 0
    plant: Path | None = None
    progress: Callable[[str], None] = lambda _: None


@dataclass(slots=True)
class Report:
    """What was done, and the violations."""

    plan: Plan
    seconds: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: dict[str, list[str]] = field(default_factory=dict)
    killed_at: list[float] = field(default_factory=list)


def run(plan: Plan) -> Report:
    """Run the campaign, wait until all work is done, and check every guarantee."""
    report, started = Report(plan), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        _database(plan.database, Path(name)) as url,
        _simulator(plan) as simulator,
    ):
        folder = Path(name)
        stack = _stack(plan, url, folder, simulator)
        database = Database(url)
        try:
            stack.start()
            _start_more(plan, stack)
            with Reader(folder / "var" / "certificates") as reader:
                clients = _attack(plan, stack, simulator, database, report)
                report.faults.update(simulator.thrown())
                _settle(stack, simulator, database, clients)
                reader.look()
            metrics = requests.get(f"{stack.url}/metrics", headers=stack.headers(), timeout=30)
            ends = stack.stop()
            stack.processes.clear()
            evidence = Evidence(folder, database, simulator, clients, reader, metrics.content, report.killed_at, ends)
            report.violations = find_violations(evidence)
            report.done.update(evidence.counts())
        finally:
            stack.kill_all()
            database.close()
    report.seconds = time.monotonic() - started
    return report


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield databases.new_sqlite_database(folder)
        return
    url = databases.new_postgres_database()
    yield url
    databases.release_postgres_database(url)


def _simulator(plan: Plan) -> Simulator:
    return Simulator(
        token=TOKEN,
        any_domain=True,
        issue_delay=0.3,
        event_delay=2.0,
        allow_http_webhooks=True,
        webhook_retry_base=0.5,
        rate_limit=400,
        rate_window=15.0,
        seed=plan.seed,
        fault=[f"{name}={rate}" for name, rate in RATES.items()],
    )


def _stack(plan: Plan, url: str, folder: Path, simulator: Simulator) -> Stack:
    settings: dict[str, object] = {
        "job_lease_seconds": 4,
        "purchase_settle_seconds": 5,  # longer than "slow" holds a call back
        "issuance_poll_seconds": "1,2,4",
        "dnsimple_connect_timeout_seconds": 2,
        "dnsimple_read_timeout_seconds": 2,
        "order_wait_seconds": 5,
    }
    stack = Stack(url, folder, simulator, **settings)
    if plan.plant is not None:
        stack.gunicorn_configuration = str(plan.plant)
    return stack


def _webs(plan: Plan) -> list[str]:
    """SQLite has one web process; PostgreSQL may have several."""
    return ["web"] if plan.database == "sqlite" else ["web", "second web"]


def _start_more(plan: Plan, stack: Stack) -> None:
    stack.start_worker("second worker")
    for web in _webs(plan)[1:]:
        stack.start_web(web)


def _attack(plan: Plan, stack: Stack, simulator: Simulator, database: Database, report: Report) -> Clients:
    rng, pause = random.Random(plan.seed), threading.Event()
    with Clients(stack, simulator, database, _webs(plan), rng) as clients:
        for number in range(1, plan.kills + 1):
            pause.wait(rng.uniform(*_PAUSES_SECONDS))
            victim = rng.choice(sorted(stack.processes))
            report.killed_at.append(time.time())
            report.faults[f"kill -9 of {_kill(stack, victim, rng)}"] += 1
            if number % 25 == 0:
                plan.progress(f"{plan.database}: {number} of {plan.kills} kills, {len(clients.accepted)} orders")
    return clients


def _kill(stack: Stack, victim: str, rng: random.Random) -> str:
    """A worker, a web server with its processes, or one of its processes alone, which gunicorn restarts."""
    if "worker" in victim:
        stack.kill(victim)
        stack.start_worker(victim)
        return "a worker"
    children = psutil.Process(stack.processes[victim].pid).children()
    if children and rng.random() < 0.5:
        rng.choice(children).send_signal(signal.SIGKILL)
        return "a web process"
    stack.kill(victim)
    stack.start_web(victim)
    return "a web server"


def _settle(stack: Stack, simulator: Simulator, database: Database, clients: Clients) -> None:
    """Stop the faults and expedite jobs; then reconcile every domain once, as happens in the course of days."""
    simulator.clear_faults()
    simulator.control("POST", "/settings", {"rate_limit": 1_000_000})
    wait_until(stack.is_ready, "ready again", 60)
    _wait_until_idle(simulator, database, clients)
    queue = Queue(database)
    with database.write() as session:
        session.execute(update(Domain).values(last_checked_at=None))

    def all_checked() -> bool:
        with database.write() as session:
            queue.enqueue(session, JobKind.RECONCILE)
        _wait_until_idle(simulator, database, clients)
        with database.read() as session:
            return not session.scalar(select(func.count()).select_from(Domain).where(Domain.last_checked_at.is_(None)))

    wait_until(all_checked, "every domain checked", _SETTLE_SECONDS)
    _wait_until_idle(simulator, database, clients)


def _wait_until_idle(simulator: Simulator, database: Database, clients: Clients) -> None:
    periodic = PERIODS.keys() - {JobKind.RECONCILE}

    def is_idle() -> bool:
        clients.hurry()
        state = simulator.state()
        with database.read() as session:
            unfinished = (
                select(func.count()).select_from(Job).where(Job.finished_at.is_(None), Job.kind.not_in(periodic))
            )
            return (
                not session.scalar(unfinished)
                and not state["outstanding_deliveries"]
                and not state["certificates"].get("requesting")
            )

    wait_until(is_idle, "all work done", _SETTLE_SECONDS)
