"""Intake, claims and lists on a small database, and with 100,000 certificates and 1,000,000 events on record.

The small one has as many certificates as a page of a list shows: an empty page costs nothing on any database.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import requests
from sqlalchemy import insert

from app.db.database import Database
from app.db.models import Base, Certificate, Delivery, Domain, Event, Job, Lineage, TimelineEntry
from app.jobs.kinds import JobKind
from app.jobs.queue import Queue
from benchmarks.ingestion import EVENTS, new_database
from benchmarks.load import Servers, load, spread
from tests.support.harness import ACCOUNT, TOKEN
from tests.support.simulator_process import Simulator

SMALL, CERTIFICATES = 100, 100_000
EVENTS_EACH = 10
ROUNDS = 3
SECONDS = 3.0
CLAIMS = 200
_BATCH = 5_000
_COLLECTORS = "GET /metrics: reading the database"
_PAGES = {
    "dashboard, overview, 4 connections": "/dashboard",
    "dashboard, certificates, 4 connections": "/dashboard/certificates",
    "dashboard, certificates by domain, 4 connections": "/dashboard/certificates?q=c",
    "dashboard, certificates by expiry, 4 connections": "/dashboard/certificates?expiring=30",
    "dashboard, jobs, 4 connections": "/dashboard/jobs",
}
_LEAF = "-----BEGIN CERTIFICATE-----\n" + "A" * 1600 + "\n-----END CERTIFICATE-----\n"

type MetricsCollector = dict[tuple[str, str], list[float]]


def measure(kind: str) -> MetricsCollector:
    """p99 in milliseconds by operation and database, measured alternately."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(token=TOKEN, any_domain=True, rate_limit=10**9))
        servers = {}
        for size, certificates in (("small", SMALL), ("full", CERTIFICATES)):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(new_database(kind, folder))
            _fill(url, certificates)
            servers[size] = Servers(url, folder, simulator)
            servers[size].environment["METRICS_CACHE_SECONDS"] = "0"
            stack.callback(servers[size].kill_all)
            servers[size].token = servers[size].flask("tokens", "create", JobKind.SEND_NOTIFICATION).strip()
            servers[size].start_web("web")
            servers[size].wait_for("web")
        for _ in range(ROUNDS):
            for size, server in servers.items():
                found["webhook ingestion, 16 connections", size].append(load(server.url + EVENTS, 16, SECONDS).p99)
                page = load(server.url + "/certificates", 4, SECONDS, method="GET", **server.headers())
                found["GET /certificates, 4 connections", size].append(page.p99)
                cookie = _signed_in(server)
                for what, path in _PAGES.items():
                    seen = load(server.url + path, 4, SECONDS, method="GET", Cookie=cookie)
                    assert seen.failed == 0, what
                    print(f"  {what}, {size}: p50 {seen.p50:.1f} ms, p99 {seen.p99:.1f} ms", file=sys.stderr)
                    found[what, size].append(seen.p99)
                found["claim of a job", size].append(_claims(server.environment["DATABASE_URL"]))
                found[_COLLECTORS, size].append(_figures(server))
    return dict(found)


def _signed_in(server: Servers) -> str:
    """The session cookie of a dashboard user."""
    answer = requests.post(
        server.url + "/dashboard/sign-in", data={"token": server.token}, allow_redirects=False, timeout=60
    )
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert requests.get(server.url + "/dashboard", headers={"Cookie": cookie}, timeout=60).url.endswith("/dashboard")
    return cookie


def _figures(server: Servers) -> float:
    """Milliseconds that the last uncached collection of all database metrics took."""
    page = requests.get(server.url + "/metrics", headers=server.headers(), timeout=60).text
    (line,) = [line for line in page.splitlines() if line.startswith("certcourier_collector_duration_seconds ")]
    return float(line.split()[1]) * 1000


def _claims(url: str) -> float:
    database = Database(url)
    queue, taken = Queue(database), []
    with database.write() as session:
        for number in range(CLAIMS):
            queue.enqueue(session, JobKind.SEND_NOTIFICATION, {"n": number})
    for _ in range(CLAIMS):
        started = time.perf_counter()
        claims = queue.claim(1, worker_id=JobKind.SEND_NOTIFICATION)
        taken.append((time.perf_counter() - started) * 1000)
        with queue.finishing(claims[0]):
            pass
    database.close()
    return quantiles(taken, n=100)[-1]


def _fill(url: str, certificates: int) -> None:
    database, now, numbers = Database(url), datetime.now(UTC), range(1, certificates + 1)
    _insert(database, Domain, ({"id": n, "account_id": ACCOUNT, "name": f"c{n}.example"} for n in numbers))
    _insert(database, Lineage, (_lineage(n) for n in numbers))
    _insert(database, Certificate, (_certificate(n, now) for n in numbers))
    _insert(database, Delivery, (_delivery(n, now) for n in numbers))
    _insert(database, TimelineEntry, ({"certificate_id": n, "step": "verified", "detail": "..."} for n in numbers))
    _insert(database, Event, (_event(n, now, certificates) for n in range(EVENTS_EACH * certificates)))
    _insert(database, Job, (_job(n, now) for n in range(2 * certificates)))
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    database.close()


def _insert(database: Database, model: type[Base], rows: Iterable[dict[str, Any]]) -> None:
    print(f"  filling {model.__tablename__} ...", file=sys.stderr, flush=True)
    table: Any = model.__table__
    for batch in batched(rows, _BATCH):
        with database.write() as session:
            session.execute(insert(table), list(batch))


def _lineage(n: int) -> dict[str, Any]:
    return {
        "id": n,
        "account_id": ACCOUNT,
        "domain": f"c{n}.example",
        "names_digest": f"{n:064x}",
        "name": f"c{n}.example",
    }


def _certificate(n: int, now: datetime) -> dict[str, Any]:
    return {
        "id": n,
        "account_id": ACCOUNT,
        "domain_id": n,
        "domain": f"c{n}.example",
        "lineage_id": n,
        "state": "issued",
        "common_name": f"www.c{n}.example",
        "names": [f"c{n}.example", f"www.c{n}.example"],
        "fingerprint": f"{n:064x}",
        "serial": f"{n:x}",
        "key_algorithm": "ECDSA secp256r1",
        "not_before": now - timedelta(days=n % 60),
        "not_after": now + timedelta(days=90 - n % 60),
        "leaf_pem": _LEAF,
        "chain_pem": _LEAF,
        "encrypted_key": b"k" * 300,
        "fetched_at": now - timedelta(days=n % 60),
    }


def _delivery(n: int, now: datetime) -> dict[str, Any]:
    return {"certificate_id": n, "destination": "certificates", "state": "delivered", "delivered_at": now}


def _event(n: int, now: datetime, certificates: int) -> dict[str, Any]:
    return {
        "request_identifier": f"00000000-0000-4000-8000-{n:012d}",
        "name": "certificate.issue" if n % 4 == 0 else "domain.create",
        "account_id": ACCOUNT,
        "certificate_id": n % certificates + 1 if n % 4 == 0 else None,
        "domain_id": n % certificates + 1 if n % 4 == 0 else None,
        "outcome": "queued" if n % 4 == 0 else "ignored",
        "received_at": now - timedelta(seconds=7 * (EVENTS_EACH * certificates - n)),
    }


def _job(n: int, now: datetime) -> dict[str, Any]:
    args = {"certificate_id": n // 2 + 1}
    kind = "fetch_certificate" if n % 2 else "deliver"
    return {"kind": kind, "args": args, "state": "done", "finished_at": now - timedelta(minutes=n % 100_000)}


def report(results: dict[str, MetricsCollector]) -> str:
    """A Markdown table."""
    large = f"{CERTIFICATES:,} certificates, {EVENTS_EACH * CERTIFICATES:,} events"
    rows = [f"| p99 in ms | goal | {SMALL} certificates | {large} | ratio |", "|---|---|---|---|---|"]
    for kind, found in results.items():
        for what in dict.fromkeys(what for what, _ in found):
            small, full = found[what, "small"], found[what, "full"]
            ratio = median(full) / median(small)
            goal = "below 1,000" if what == _COLLECTORS else "within 1.5"
            rows.append(f"| {what}, {kind} | {goal} | {_fine(small)} | {_fine(full)} | {ratio:.2f} |")
    return "\n".join(rows)


def _fine(values: list[float]) -> str:
    return spread(values) if median(values) >= 10 else f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
