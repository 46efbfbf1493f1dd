"""Disks that are full, read-only or hang: the database's and the destinations'."""

from __future__ import annotations

import fcntl
import functools
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import update

from app.db.clock import db_now
from app.db.database import Database
from app.db.models import Job
from tests.support import databases
from tests.support.harness import event
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until
from tests.support.traffic import EVENTS, Traffic, check_done_once, make_stack

SLOT = "www.customer.example"
FILES = ("fullchain.pem", "privkey.pem", "cert.pem", "chain.pem")
MAX_CONCURRENCY = 4


@pytest.fixture
def simulator(retrying_simulator: Simulator) -> Simulator:
    return retrying_simulator


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own in this folder."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs"]
    mounted = subprocess.run(["mount", *options, str(folder)], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte; what to delete to have it back."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with pytest.raises(OSError, match="No space left on device"):
                while True:
                    file.write(bytes(size))
    return filler


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    try:
        yield stack.start()
    finally:
        stack.kill_all()


def test_a_full_database_disk_returns_503_and_loses_nothing(simulator: Simulator, tmp_path: Path) -> None:
    with small_disk(tmp_path / "database", 4) as disk:
        url = databases.new_sqlite_database(disk)
        with running(make_stack(url, tmp_path, simulator)) as stack:
            simulator.wait_for_webhooks(1)
            acknowledged = _fill_in_the_middle(stack, simulator, disk)
            assert stack.stop() == {"web": 0, "worker": 0}
            stack.processes.clear()
        connection = sqlite3.connect(disk / "certcourier.db")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        recorded = {identifier for (identifier,) in connection.execute("SELECT request_identifier FROM events")}
        connection.close()
        assert recorded >= acknowledged


def _fill_in_the_middle(stack: Stack, simulator: Simulator, disk: Path) -> set[str]:
    """Identifiers of the events that were acknowledged."""
    acknowledged = set()

    def refused() -> bool:
        """What still fits into the room that the database has already is acknowledged rightly."""
        posted = event(1, 1, name="zone.create")
        answer = requests.post(stack.url + EVENTS, json=posted, timeout=60)
        if answer.status_code == 200:
            acknowledged.add(posted["request_identifier"])
            return False
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        return True

    with Traffic(stack, "web") as traffic:
        traffic.wait_for(2)
        filler = fill(disk)
        wait_until(lambda: traffic.statuses[503] >= 2, "orders are answered 503")
        wait_until(refused, "an event is answered 503")
        assert all(refused() for _ in range(5))
        filler.unlink()
        traffic.wait_for(2)
    wait_until(lambda: not refused(), "events are acknowledged again")
    check_done_once(stack, simulator, traffic.accepted)
    assert set(traffic.statuses) <= {202, 409, 503}
    return acknowledged


def deliveries(stack: Stack, certificate_id: int) -> dict[str, dict[str, Any]]:
    """By destination; none while the certificate is not installed."""
    found = stack.get(f"/certificates/{certificate_id}")
    return {delivery["destination"]: delivery for delivery in found["deliveries"]} if found else {}


def reports(stack: Stack, certificate_id: int, text: str) -> bool:
    """Whether the first delivery is complete and the second one is retried, for a reason that contains the text."""
    found = deliveries(stack, certificate_id)
    if not found or text not in (found["second"]["detail"] or "") or found["first"]["state"] != "delivered":
        return False
    return found["second"]["state"] in {"pending", "failing"}


def contents(slot: Path) -> list[str]:
    return [(slot / name).read_text() for name in FILES]


def test_a_destination_that_is_full_or_read_only_keeps_what_it_has_and_gets_the_new_one_later(
    simulator: Simulator, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "second", 1) as disk,
        running(make_stack(databases.new_sqlite_database(tmp_path), tmp_path, simulator)) as stack,
    ):
        simulator.wait_for_webhooks(1)
        first = stack.order("customer.example")["certificate_id"]
        stack.wait_delivered(first)
        held = contents(disk / SLOT)

        filler = fill(disk)
        second = simulator.renew(first)
        wait_until(functools.partial(reports, stack, second, "No space left on device"), "the full disk is noticed")
        assert contents(disk / SLOT) == held
        filler.unlink()
        stack.wait_delivered(second)
        assert contents(disk / SLOT) == contents(tmp_path / "first" / SLOT) != held
        held = contents(disk / SLOT)

        remount(disk, "ro")
        third = simulator.renew(second)
        wait_until(functools.partial(reports, stack, third, "Read-only file system"), "the read-only disk is noticed")
        assert contents(disk / SLOT) == held
        remount(disk, "rw")
        stack.wait_delivered(third)
        assert contents(disk / SLOT) == contents(tmp_path / "first" / SLOT) != held
        assert "Traceback" not in stack.log("worker")


def _let_pauses_end(stack: Stack) -> None:
    """As if the deliveries that failed had waited long enough."""
    database = Database(stack.environment["DATABASE_URL"])
    with database.write() as session:
        waiting = update(Job).where(Job.kind == "deliver", Job.state == "ready")
        session.execute(waiting.values(run_at=db_now(-0.001)))
    database.close()


def hanging(stack: Stack) -> int:
    """How many threads of the worker wait for a lock."""
    pid = str(stack.processes["worker"].pid)
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line]
    return sum(pid in words for words in waiting)


def test_a_destination_that_hangs_delays_no_other_and_leaks_no_threads(simulator: Simulator, tmp_path: Path) -> None:
    """It hangs for real, in the kernel: another process holds the locks of its slots."""
    domains = ["customer.example", *(f"other{number}.example" for number in range(6))]
    stack = make_stack(databases.new_sqlite_database(tmp_path), tmp_path, simulator, timeout_seconds=0.5)
    with ExitStack() as locks, running(stack):
        for domain in domains:
            slot = tmp_path / "second" / f"www.{domain}"
            slot.mkdir(parents=True)
            fcntl.flock(locks.enter_context((slot / ".lock").open("w")), fcntl.LOCK_EX)
        simulator.wait_for_webhooks(1)
        hung, *others = (stack.order(domain)["certificate_id"] for domain in domains)
        wait_until(functools.partial(reports, stack, hung, ""), "the first delivery")
        for certificate_id in others:
            wait_until(functools.partial(reports, stack, certificate_id, "second "), "the destination's error")
        assert "second has not finished an operation" in stack.log("worker")
        assert 1 <= hanging(stack) <= MAX_CONCURRENCY
        locks.pop_all().close()
        _let_pauses_end(stack)
        for certificate_id in (hung, *others):
            stack.wait_delivered(certificate_id)

    with (tmp_path / "second" / SLOT / ".lock").open("w") as lock, running(stack):
        fcntl.flock(lock, fcntl.LOCK_EX)
        renewal = simulator.renew(hung)
        wait_until(functools.partial(reports, stack, renewal, "did not finish within 0.5 seconds"), "the timeout")
        assert stack.stop_one("worker") == 0, "what hangs keeps the worker from ending"
