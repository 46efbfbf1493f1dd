"""How soon an idle worker is notified of a commit, and what listening costs."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from app.db.database import Database
from app.jobs.kinds import JobKind
from app.jobs.queue import Queue
from app.jobs.wakeup import wakeup_for
from tests.support import databases

COMMITS = 50
IDLE_SECONDS = 10.0


def report() -> str:
    """A Markdown table for both databases."""
    rows = ["| wake-up of an idle worker | goal | SQLite | PostgreSQL |", "|---|---|---|---|"]
    latencies, cost = [], []
    with tempfile.TemporaryDirectory() as name:
        urls = (databases.new_sqlite_database(Path(name)), databases.new_postgres_database())
        for url in urls:
            database = Database(url)
            delays = _delays(database)
            latencies.append(f"{median(delays):.0f} ({min(delays):.0f} to {max(delays):.0f})")
            cost.append(f"{_idle_cost(database):.2f} %")
            database.close()
        databases.release_postgres_database(urls[1])
    rows.append(f"| commit to wake-up, ms | below 50 | {latencies[0]} | {latencies[1]} |")
    rows.append(f"| CPU time of one idle listener | | {cost[0]} | {cost[1]} |")
    return "\n".join(rows)


def _delays(database: Database) -> list[float]:
    queue, wakeup, delays = Queue(database), wakeup_for(database), []
    wakeup.wait(0.1)
    for number in range(COMMITS):
        while wakeup.wait(0.1):
            pass
        woken_at: list[float] = []
        listener = threading.Thread(
            target=lambda woken_at=woken_at: wakeup.wait(5) and woken_at.append(time.perf_counter())
        )
        listener.start()
        with database.write() as session:
            queue.enqueue(session, JobKind.SEND_NOTIFICATION, {"n": number}, delay=0)
        committed = time.perf_counter()
        listener.join()
        delays.append((woken_at[0] - committed) * 1000)
    wakeup.close()
    return delays


def _idle_cost(database: Database) -> float:
    """Per cent of one core."""
    wakeup = wakeup_for(database)
    wakeup.wait(0.1)
    before, end = time.thread_time(), time.monotonic() + IDLE_SECONDS
    while time.monotonic() < end:
        wakeup.wait(1.0)
    used = time.thread_time() - before
    wakeup.close()
    return 100 * used / IDLE_SECONDS
