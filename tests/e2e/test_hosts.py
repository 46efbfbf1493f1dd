"""Several web and worker processes on one PostgreSQL server, and what happens to hosts."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import requests

from app.db.database import Database
from app.db.migrations import upgrade
from app.jobs.kinds import JobKind
from tests.support import databases
from tests.support.harness import event
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until
from tests.support.traffic import EVENTS, Traffic, check_done_once, make_stack

PURCHASE = "/{account}/domains/{domain}/certificates/letsencrypt"
PRIVATE_KEY = "/{account}/domains/{domain}/certificates/{certificate}/private_key"


@pytest.fixture
def simulator(retrying_simulator: Simulator) -> Simulator:
    return retrying_simulator


@pytest.fixture
def stack(simulator: Simulator, tmp_path: Path) -> Iterator[Stack]:
    """One web process and one worker; tests start more."""
    url = databases.new_postgres_database()
    stack = make_stack(url, tmp_path, simulator)
    try:
        yield stack.start()
    finally:
        stack.kill_all()
        databases.release_postgres_database(url)


def connect(stack: Stack) -> psycopg.Connection:
    return psycopg.connect(stack.environment["DATABASE_URL"], autocommit=True)


def rows(stack: Stack, query: str, *values: object) -> list[tuple[object, ...]]:
    with connect(stack) as connection:
        return connection.execute(query.encode(), values).fetchall()


def holder(stack: Stack, kind: str) -> str:
    """The name of the worker process that holds the only job of this kind."""
    query = "SELECT pid FROM jobs JOIN workers ON workers.id = jobs.worker_id WHERE kind = %s AND state = 'running'"
    ((pid,),) = rows(stack, query, kind)
    return next(name for name, process in stack.processes.items() if process.pid == pid)


def order_without_waiting(stack: Stack, domain: str) -> dict[str, object]:
    """An order of which a worker takes every step."""
    headers = stack.headers() | {"Prefer": "respond-async"}
    answer = requests.post(f"{stack.url}/issue_certificate", json={"domain": domain}, headers=headers, timeout=60)
    assert answer.status_code == 202, answer.text
    order: dict[str, object] = answer.json()["data"]
    return order


def test_a_rolling_restart_loses_and_repeats_nothing(stack: Stack, simulator: Simulator) -> None:
    """Both web processes hear all events; each is stopped and started again while orders keep coming."""
    webs, workers = ("web", "second web"), ("worker", "second worker")
    stack.start_web("second web")
    stack.start_worker("second worker")
    wait_until(lambda: stack.is_ready("second web"), "ready")
    simulator.wait_for_webhooks(1)
    simulator.api("POST", "/webhooks", {"url": stack.url_of("second web") + EVENTS})
    simulator.reset_calls()
    with Traffic(stack, *webs) as traffic:
        for name in (*webs, *workers):
            traffic.wait_for(2)
            assert stack.stop_one(name) == 0
            traffic.wait_for(2)
            if name in webs:
                stack.start_web(name)
                wait_until(lambda web=name: stack.is_ready(web), "ready")  # type: ignore[misc]
            else:
                stack.start_worker(name)
                wait_until(lambda worker=name: stack.log(worker).count("worker started") == 2, "started")  # type: ignore[misc]
        traffic.wait_for(2)
    check_done_once(stack, simulator, traffic.accepted)
    assert set(traffic.statuses) <= {202, 409}
    simulator.wait_until_delivered()
    calls = Counter((call["method"], call["path_template"].rpartition("/")[2]) for call in simulator.calls())
    for call in (("POST", "letsencrypt"), ("GET", "download"), ("GET", "private_key")):
        assert calls[call] == len(traffic.accepted), calls


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [("advance_order", "POST", PURCHASE), ("fetch_certificate", "GET", PRIVATE_KEY)],
    ids=["advance_order", "fetch_certificate"],
)
def test_a_worker_that_was_frozen_past_its_lease_repeats_nothing(
    stack: Stack, simulator: Simulator, kind: str, method: str, path: str
) -> None:
    """It is frozen while it waits for DNSimple; when it wakes, the answer is there and its job is another's."""
    stack.start_worker("second worker")
    wait_until(lambda: "worker started" in stack.log("second worker"), "started")
    simulator.wait_for_webhooks(1)
    simulator.reset_calls()
    simulator.fault(method=method, path_template=path, action="none", when="after", delay_seconds=3)
    order = order_without_waiting(stack, "customer.example")
    simulator.wait_for_fault()
    frozen = holder(stack, kind)
    stack.signal(frozen, signal.SIGSTOP)
    check_done_once(stack, simulator, {"customer.example": order})
    stack.signal(frozen, signal.SIGCONT)
    wait_until(lambda: '"job lost"' in stack.log(frozen), "the frozen worker finds its job lost")

    stack.stop_one({"worker": "second worker", "second worker": "worker"}[frozen])
    later = order_without_waiting(stack, "later.example")  # only the one that was frozen is left
    check_done_once(stack, simulator, {"customer.example": order, "later.example": later})
    calls = [call["path_template"] for call in simulator.calls()]
    # The answer that the frozen one did not hear was a purchase, which is adopted, or a private key, fetched again.
    assert (calls.count(PURCHASE), calls.count(PRIVATE_KEY)) == ((2, 2) if kind == "advance_order" else (2, 3))


def test_the_database_server_is_restarted_in_the_middle(simulator: Simulator, tmp_path: Path) -> None:
    """While it is away, orders and events are answered 503; what was acknowledged is done without anyone's help."""
    server = databases.new_postgres_server()
    try:
        database = Database(server.url)
        upgrade(database)
        database.close()
        stack = make_stack(server.url, tmp_path, simulator)
        try:
            stack.start()
            _restart_in_the_middle(stack, simulator, server)
        finally:
            stack.kill_all()
    finally:
        server.remove()


def _restart_in_the_middle(stack: Stack, simulator: Simulator, server: databases.Server) -> None:
    simulator.wait_for_webhooks(1)
    acknowledged = []
    with Traffic(stack, "web") as traffic:
        traffic.wait_for(3)
        server.stop()
        for _ in range(3):
            answer = requests.post(stack.url + EVENTS, json=event(1, 1, name="zone.create"), timeout=30)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            answer = requests.get(f"{stack.url}/certificates", headers=stack.headers(), timeout=30)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        wait_until(lambda: traffic.statuses[503], "an order is answered 503")
        server.start()
        traffic.wait_for(3)
        server.stop()  # and again without warning, while events arrive
        server.start()
        for _ in range(20):
            posted = event(1, 1, name="zone.create")
            answer = requests.post(stack.url + EVENTS, json=posted, timeout=30)
            assert answer.status_code in {200, 503}
            if answer.status_code == 200:
                acknowledged.append(posted["request_identifier"])
        traffic.wait_for(3)
    check_done_once(stack, simulator, traffic.accepted)
    assert set(traffic.statuses) <= {202, 409, 503}
    recorded = {identifier for (identifier,) in rows(stack, "SELECT request_identifier FROM events")}
    assert acknowledged
    assert recorded >= set(acknowledged)
    assert stack.processes.keys() == {"web", "worker"}
    assert all(process.poll() is None for process in stack.processes.values())


def backends(stack: Stack, name: str) -> dict[int, str]:
    """The server's processes for the connections of one of ours, and what each was asked last."""
    ports = {connection.laddr.port for connection in psutil.Process(stack.processes[name].pid).net_connections("tcp")}
    found = rows(stack, "SELECT pid, client_port, query FROM pg_stat_activity WHERE datname = current_database()")
    return {int(str(pid)): str(query) for pid, port, query in found if port in ports}


def listener(stack: Stack, name: str) -> set[int]:
    return {pid for pid, query in backends(stack, name).items() if query.startswith("LISTEN")}


def test_a_worker_whose_connections_are_cut_reconnects_and_is_woken_up_again(
    stack: Stack, simulator: Simulator
) -> None:
    """All are cut while a job is at hand, the one that listens too."""
    simulator.wait_for_webhooks(1)
    simulator.fault(method="GET", path_template=PRIVATE_KEY, action="none", delay_seconds=1)
    order = order_without_waiting(stack, "customer.example")
    simulator.wait_for_fault()
    (listening,) = wait_until(lambda: listener(stack, "worker"), "the worker listens")
    for pid in backends(stack, "worker"):
        rows(stack, "SELECT pg_terminate_backend(%s)", pid)
    check_done_once(stack, simulator, {"customer.example": order})
    (again,) = wait_until(lambda: listener(stack, "worker") - {listening}, "the worker listens again")

    domain_id, certificate_id = simulator.domain_id("customer.example"), stack.get("/certificates")[0]["certificate_id"]

    def is_fetching() -> bool:
        unfinished = "SELECT 1 FROM jobs WHERE kind = %s AND finished_at IS NULL"
        return bool(rows(stack, unfinished, JobKind.FETCH_CERTIFICATE.value))

    wait_until(lambda: not is_fetching(), "idle")
    with connect(stack) as connection:
        ((started,),) = connection.execute("SELECT clock_timestamp()").fetchall()
    for _ in range(4):  # each as soon as the one before is done: by polling alone they would take 20 seconds
        envelope = event(certificate_id, domain_id)
        assert requests.post(stack.url + EVENTS, json=envelope, timeout=30).json()["data"]["outcome"] == "queued"
        wait_until(lambda: not is_fetching(), "done")
    ((seconds,),) = rows(stack, "SELECT extract(epoch FROM clock_timestamp() - %s)::float", started)
    assert float(str(seconds)) < 10
    assert listener(stack, "worker") == {again}


def clock_apart(seconds: int, folder: Path) -> list[str]:
    """What starts a program on a host whose clock is that much ahead. Skips where `faketime` is not installed.

    The program `faketime` itself would stay in between and hear the signals, so only its settings are taken. It breaks
    `clock_nanosleep` until an instant, by which Python sleeps (gunicorn's master does), so that is replaced.
    """
    program = shutil.which("faketime")
    if program is None:
        pytest.skip("no faketime: install Debian's package `faketime`")
    (folder / "sitecustomize.py").write_text(
        "import threading, time\ntime.sleep = lambda seconds: threading.Event().wait(seconds) and None\n"
    )
    command = [program, "--exclude-monotonic", "-f", f"{seconds:+}", "env"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = ("LD_PRELOAD=", "FAKETIME=", "FAKETIME_DONT_FAKE_MONOTONIC=")
    return ["env", f"PYTHONPATH={folder}", *(line for line in lines if line.startswith(wanted))]


def test_the_clocks_of_the_hosts_do_not_matter(simulator: Simulator, tmp_path: Path) -> None:
    """One host is five minutes ahead, the other one five behind: leases and due times are the database's."""
    ahead, behind = clock_apart(+300, tmp_path), clock_apart(-300, tmp_path)
    url = databases.new_postgres_database()
    stack = make_stack(url, tmp_path, simulator)
    # Far below the clocks' difference, and long enough for a busy machine: a lost job has no other cause.
    stack.environment["JOB_LEASE_SECONDS"] = "10"
    try:
        stack.token = stack.flask("tokens", "create", "tests").strip()
        for name, under in (("", ahead), ("second ", behind)):
            stack.start_web(f"{name}web", under=under)
            stack.start_worker(f"{name}worker", under=under)
        for web in ("web", "second web"):
            wait_until(lambda web=web: stack.is_ready(web), "ready")  # type: ignore[misc]
        _order_on_hosts_apart(stack, simulator)
    finally:
        stack.kill_all()
        databases.release_postgres_database(url)


def _order_on_hosts_apart(stack: Stack, simulator: Simulator) -> None:
    simulator.wait_for_webhooks(1)
    simulator.reset_calls()
    simulator.control("POST", "/settings", {"issued_lag": 0.5})  # so that fetches are snoozed
    simulator.fault(
        method="GET", path_template=PRIVATE_KEY, action="none", delay_seconds=12, times=2
    )  # longer than a lease
    held = "SELECT DISTINCT worker_id FROM jobs WHERE kind = %s AND worker_id IS NOT NULL"
    with Traffic(stack, "web", "second web") as traffic:
        traffic.wait_for(6)
        wait_until(
            lambda: len(rows(stack, held, JobKind.FETCH_CERTIFICATE.value)) == 2,
            "both workers have fetched a certificate",
        )
    check_done_once(stack, simulator, traffic.accepted, seconds=30)
    calls = Counter(call["path_template"].rpartition("/")[2] for call in simulator.calls() if call["status"] < 400)
    assert (calls["private_key"], calls["letsencrypt"]) == (len(traffic.accepted), len(traffic.accepted))
    for name in ("worker", "second worker"):
        assert '"job lost"' not in stack.log(name)
