"""Durable intake of webhooks, compared with a no-op, the tutorial, and bare commits."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sqlalchemy import func, insert, select

from app.db.database import Database
from app.db.models import Event, InstallationState
from benchmarks.load import Load, Servers, load, spread
from tests.support import databases
from tests.support.harness import TOKEN, WEBHOOK_SECRET
from tests.support.simulator_process import Simulator

CONNECTIONS = (1, 16, 64)
ROUNDS = 3
SECONDS = 3.0
EVENTS = f"/dnsimple/events/{WEBHOOK_SECRET}"


@dataclass
class EventIngestion:
    """Results by server and number of connections, one run per round."""

    database: str
    runs: defaultdict[tuple[str, int], list[Load]] = field(default_factory=lambda: defaultdict(list))
    commits: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    answered: int = 0
    recorded: int = 0


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[str]:
    """URL of a new database, released at the end."""
    if kind == "SQLite":
        yield databases.new_sqlite_database(folder)
        return
    url = databases.new_postgres_database()
    yield url
    databases.release_postgres_database(url)


def measure(kind: str) -> EventIngestion:
    """Measure the servers in turn in each round. No worker runs: only intake is measured."""
    result = EventIngestion(kind)
    options = {"any_domain": True, "issue_delay": 0.0, "rate_limit": 10**9}
    with (
        tempfile.TemporaryDirectory() as name,
        new_database(kind, Path(name)) as url,
        Simulator(token=TOKEN, **options) as simulator,
    ):
        number = simulator.purchase("customer.example")
        simulator.issue("customer.example", number)
        simulator.wait_until_issued("customer.example", number)
        real = (number, simulator.domain_id("customer.example"))
        servers = Servers(url, Path(name), simulator)
        try:
            servers.start_web("web")
            servers.wait_for("web")
            noop = servers.start_other("noop", "benchmarks.noop:app")
            tutorial = servers.start_other("tutorial", "benchmarks.tutorial:app")
            for _ in range(ROUNDS):
                for connections in CONNECTIONS:
                    ours = load(servers.url + EVENTS, connections, SECONDS)
                    result.answered += ours.answered - ours.failed
                    result.runs["Certcourier", connections].append(ours)
                    result.runs["no-op", connections].append(load(noop + EVENTS, connections, SECONDS))
                    result.runs["tutorial", connections].append(load(tutorial + EVENTS, connections, SECONDS, *real))
                    result.commits[connections].append(_bare_commits(url, connections))
        finally:
            servers.kill_all()
        database = Database(url)
        with database.read() as session:
            result.recorded = session.scalar(select(func.count()).select_from(Event)) or 0
        database.close()
    return result


def _bare_commits(url: str, threads: int) -> float:
    """Commits per second of one small row each."""
    database, counts, end = Database(url, pool_size=threads), [0] * threads, time.monotonic() + SECONDS
    statement = insert(InstallationState)

    def commit(thread: int) -> None:
        while time.monotonic() < end:
            with database.write() as session:
                session.execute(statement, {"name": f"{end}-{thread}-{counts[thread]}", "value": ""})
            counts[thread] += 1

    running = [threading.Thread(target=commit, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    database.close()
    return sum(counts) / SECONDS


def report(results: list[EventIngestion]) -> str:
    """A Markdown table for each database."""
    return "\n\n".join(_report(result) for result in results)


def _report(result: EventIngestion) -> str:
    rows = [
        f"| webhook ingestion, {result.database} | goal | "
        + " | ".join(f"{n} connections" for n in CONNECTIONS)
        + " |",
        "|---|---|" + "---|" * len(CONNECTIONS),
    ]
    for server in ("Certcourier", "no-op", "tutorial"):
        runs = [result.runs[server, connections] for connections in CONNECTIONS]
        rows.append(
            f"| {server}, per second | | " + " | ".join(spread([r.per_second for r in each]) for each in runs) + " |"
        )
    rows.append("| bare commits, per second | | " + " | ".join(spread(result.commits[n]) for n in CONNECTIONS) + " |")
    shares = [median(_shares(result, connections)) for connections in CONNECTIONS]
    rows.append(
        "| share of the smaller of no-op and commits | at least 50 % | " + " | ".join(f"{s:.0%}" for s in shares) + " |"
    )
    for server, goal in (("Certcourier", "below 50 at 16, 100 at 64"), ("no-op", ""), ("tutorial", "")):
        runs = [result.runs[server, connections] for connections in CONNECTIONS]
        rows.append(
            f"| {server}, p99 in ms | {goal} | " + " | ".join(spread([r.p99 for r in each]) for each in runs) + " |"
        )
    rows.append(
        f"| events answered with 200, events stored | none lost | {result.answered:,} | {result.recorded:,} | |"
    )
    return "\n".join(rows)


def _shares(result: EventIngestion, connections: int) -> list[float]:
    """Round by round, so that a slow moment of the machine is a slow moment of all."""
    ours, noop = result.runs["Certcourier", connections], result.runs["no-op", connections]
    return [
        mine.per_second / min(other.per_second, commits)
        for mine, other, commits in zip(ours, noop, result.commits[connections], strict=True)
    ]
