"""The main job: calls per certificate, time from event to fetched, memory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from tests.support import databases
from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack

CERTIFICATES = 20


@dataclass(frozen=True, slots=True)
class MainJob:
    """Results for one database. Times in milliseconds, memory in MiB (proportional set size)."""

    database: str
    calls_per_certificate: list[int]
    calls_per_renewal: list[int]
    event_to_fetched: list[float]
    event_to_delivered: list[float]
    memory: dict[str, float]


def measure(database: str) -> MainJob:
    """Order and renew certificates one after the other; every event is delivered three times."""
    with tempfile.TemporaryDirectory() as name, _simulator() as simulator:
        folder = Path(name)
        url = databases.new_sqlite_database(folder) if database == "SQLite" else databases.new_postgres_database()
        stack = Stack(url, folder, simulator)
        try:
            stack.start()
            simulator.wait_for_webhooks(1)
            return _measure(database, stack, simulator)
        finally:
            stack.stop()
            if database != "SQLite":
                databases.release_postgres_database(url)


def _simulator() -> Simulator:
    return Simulator(token=TOKEN, any_domain=True, issue_delay=0.1, allow_http_webhooks=True, deliver_times=3)


def _measure(database: str, stack: Stack, simulator: Simulator) -> MainJob:
    ordered, renewed, fetched, delivered = [], [], [], []
    for number in range(CERTIFICATES):
        simulator.reset_calls()
        first = int(stack.order(f"customer{number}.example")["certificate_id"])
        _settle(stack, simulator, first)
        ordered.append(len(simulator.certificate_calls()))
        simulator.reset_calls()
        second = simulator.renew(first)
        _settle(stack, simulator, second)
        answers = simulator.certificate_calls()
        renewed.append(len(answers))
        theirs = sum(call["seconds"] for call in answers) * 1000
        timeline = {
            line["step"]: datetime.fromisoformat(line["at"])
            for line in stack.get(f"/certificates/{second}")["timeline"]
        }
        began = timeline["event received"]
        fetched.append((timeline["verified"] - began).total_seconds() * 1000 - theirs)
        delivered.append((timeline["delivered"] - began).total_seconds() * 1000 - theirs)
    return MainJob(database, ordered, renewed, fetched, delivered, stack.memory())


def _settle(stack: Stack, simulator: Simulator, certificate_id: int) -> None:
    stack.wait_delivered(certificate_id)
    simulator.wait_until_delivered()


def report(results: list[MainJob]) -> str:
    """A Markdown table."""
    rows = [
        "| | goal | " + " | ".join(result.database for result in results) + " |",
        "|---|---|" + "---|" * len(results),
        _row(
            "API calls per new certificate, every event three times",
            "4",
            [_all(r.calls_per_certificate) for r in results],
        ),
        _row("API calls per renewal, every event three times", "2", [_all(r.calls_per_renewal) for r in results]),
        _row(
            "event to fetched, without DNSimple's own answers, ms",
            "at most 100",
            [_spread(r.event_to_fetched) for r in results],
        ),
        _row("event to delivered to files, likewise, ms", "", [_spread(r.event_to_delivered) for r in results]),
        _row(
            "memory, MiB: " + " + ".join(results[0].memory),
            "below 250 together",
            [" + ".join(f"{mib:.0f}" for mib in r.memory.values()) for r in results],
        ),
    ]
    return "\n".join(rows)


def _row(name: str, goal: str, values: list[str]) -> str:
    return f"| {name} | {goal} | " + " | ".join(values) + " |"


def _all(values: list[int]) -> str:
    return "/".join(str(value) for value in sorted(set(values))) + f" in {len(values)} of {len(values)}"


def _spread(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
