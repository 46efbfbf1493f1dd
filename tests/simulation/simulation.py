"""A year of an account: imported on its fourth day, then renewed, with injected faults.

Real are the database, the queue, the jobs, the files and the HTTP between application and simulator. Moved ahead are
the clocks of both: some hours at a time, in three strides, after each of which all work that is due is done. That is
harsher than life: what has to be tried again waits for the next stride, and periodic work is done once in those hours.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from werkzeug.serving import WSGIRequestHandler, make_server

from app import create_app
from app.certificates.account_import import import_progress, start_import
from app.db.clock import move_ahead, read_now
from app.jobs.kinds import JobKind
from app.operations.health import claim_installation
from app.services import Services
from app.worker.periodic import enqueue_due
from app.worker.worker import run_job
from config import Settings
from tests.simulation.ledger import Ledger
from tests.support.databases import new_sqlite_database
from tests.support.harness import TOKEN, make_settings
from tests.support.simulator_process import Simulator
from tests.support.stack import free_port

DAY = 86_400.0
FIRST_STRIDES = (150.0, 1800.0)
# What the worker does every few minutes is done once per step; its periods are the step's hours, too.
PERIODS = {
    JobKind.REGISTER_WEBHOOK: 3600,
    JobKind.RENEW_DUE: 3600,
    JobKind.RECONCILE: 3600,
    JobKind.PRUNE: 86_400,
}
WITHOUT_AUTO_RENEW = 0.3
RATES = {
    "event-dropped": 0.1,
    "event-doubled": 0.05,
    "event-replayed": 0.05,
    "event-forged": 0.02,
    "event-mixed": 0.02,
    "certificate-failed": 0.05,
    "certificate-rejected": 0.01,
    "wrong-key": 0.002,
    "key-removed": 0.002,
    "chain-reversed": 0.02,
    "reset-before": 0.01,
    "error-json": 0.01,
    "error-html": 0.005,
    "reset-after": 0.015,
    "error-after": 0.01,
    "half-body": 0.005,
    "not-issued": 0.01,
    "too-many": 0.0005,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How many certificates of each lifetime in days, for how many days; from which to which day what is down."""

    certificates: dict[float, int]
    days: int = 365
    no_worker: tuple[int, int] = (100, 101)
    no_web: tuple[int, int] = (200, 201)
    steps_of_a_day: int = 3
    threads: int = 4
    reconcile_percent: float = 2.0


@dataclass(slots=True)
class Row:
    """A row of the report."""

    lifetime: float
    certificates: int = 0
    renewals: int = 0
    failures: int = 0
    lowest: float = 1.0
    expired: int = 0
    out_of_order: int = 0


@dataclass(slots=True)
class Report:
    """The results. `thrown`: the injected faults by kind."""

    rows: list[Row] = field(default_factory=list)
    thrown: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    refused: int = 0

    def table(self) -> str:
        """The results as a Markdown table."""
        head = (
            "| Lifetime | Certificates | Renewals | Failures injected | Lowest lifetime left | Expired | Out of order |"
        )
        lines = [head, "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {row.lifetime:g} days | {row.certificates} | {row.renewals} | {row.failures} | {row.lowest:.1%} "
            f"| {row.expired} | {row.out_of_order} |"
            for row in self.rows
        ]
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.thrown.items()))
        return "\n".join([*lines, "", f"{self.calls} calls, {self.refused} beyond the quota. Faults: {faults}."])


class _Quiet(WSGIRequestHandler):
    """The path of an event is a secret: it is not logged here either."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


class Simulation:
    """`run()` once."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None] = print) -> None:
        self._plan = plan
        self._say = say
        self._port = free_port()
        self._folder = folder
        self._lifetimes: dict[str, float] = {}
        self._failures: Counter[float] = Counter()
        self._calls = 0
        self._moved = 0.0
        self._web_is_down = False

    def run(self) -> Report:
        """Run the simulation and return the report."""
        options = {"any_domain": True, "issue_delay": 60.0, "allow_http_webhooks": True, "webhook_attempts": 1}
        with Simulator(token=TOKEN, **options) as self._simulator:
            settings = self._settings()
            app = create_app(settings)
            self._services: Services = app.extensions["certcourier"].services
            claim_installation(self._services)
            destinations = cast("dict[str, Any]", self._services.destinations)
            self._ledger = destinations["files"] = Ledger(destinations["files"], self._now())
            server = make_server(
                "127.0.0.1", self._port, self._web(app.wsgi_app), threaded=True, request_handler=_Quiet
            )
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            try:
                with ThreadPoolExecutor(self._plan.threads) as self._pool:
                    self._live()
            finally:
                server.shutdown()
                serving.join()
                server.server_close()
                move_ahead(-self._moved)
                self._services.database.close()
            return self._report()

    def _settings(self) -> Settings:
        more = {
            "public_url": f"http://127.0.0.1:{self._port}",
            "renewal_policy": "overdue",
            "log_level": "error",
            "reconcile_percent": self._plan.reconcile_percent,
            "dnsimple_read_timeout_seconds": 10.0,
        }
        return make_settings(new_sqlite_database(self._folder), self._simulator.url, self._folder / "var", **more)

    def _web(self, application: Any) -> Callable[..., Iterable[bytes]]:
        def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
            if self._web_is_down:
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            answered: Iterable[bytes] = application(environ, start_response)
            return answered

        return answer

    def _live(self) -> None:
        domains = self._domains()
        for batch in range(12):  # three days in which the account grows without us
            for domain in domains[batch::12]:
                self._buy(domain)
            self._advance(DAY / 4)
            self._wait_for_simulator()
        self._simulator.rates(**{name.replace("-", "_"): rate for name, rate in RATES.items()})
        run_id = start_import(self._services.database, self._services.queue, None)
        strides = (*FIRST_STRIDES, DAY / self._plan.steps_of_a_day - sum(FIRST_STRIDES))
        for day in range(3, self._plan.days):
            self._web_is_down = self._plan.no_web[0] <= day < self._plan.no_web[1]
            for _ in range(self._plan.steps_of_a_day):
                for number, stride in enumerate(strides):
                    self._advance(stride)
                    if not self._plan.no_worker[0] <= day < self._plan.no_worker[1]:
                        self._settle(periodic=number == 0)
                    self._ledger.look(self._now())
            if day % 10 == 0:
                self._collect()
                delivered = sum(slot.renewals for slot in self._ledger.slots.values())
                self._say(f"day {day}: {len(self._ledger.slots)} certificates, {delivered} renewals")
        assert import_progress(self._services.database, run_id).is_finished
        self._collect()
        faults = self._simulator.control("GET", "/faults")
        self._thrown: dict[str, int] = faults["thrown"]
        for domain, count in faults["mishaps"].items():
            self._failures[self._lifetimes[domain]] += count
        self._refused = int(self._simulator.control("GET", "/calls")["refused"])

    def _domains(self) -> list[str]:
        for lifetime, count in self._plan.certificates.items():
            for number in range(count):
                self._lifetimes[f"customer{number}.days{lifetime:g}.example"] = lifetime
        return sorted(self._lifetimes)

    def _buy(self, domain: str) -> None:
        self._simulator.control("POST", "/domains", {"name": domain})
        self._simulator.control("POST", "/lifetimes", {"domain": domain, "days": self._lifetimes[domain]})
        number = int(domain.partition(".")[0].removeprefix("customer"))
        auto_renew = number % 10 >= WITHOUT_AUTO_RENEW * 10
        self._simulator.issue(domain, self._simulator.purchase(domain, auto_renew=auto_renew))

    def _advance(self, seconds: float) -> None:
        if seconds:
            self._simulator.control("POST", "/clock", {"advance_seconds": seconds})
            move_ahead(seconds)
            self._moved += seconds

    def _now(self) -> datetime:
        with self._services.database.read() as session:
            return read_now(session)

    def _settle(self, *, periodic: bool) -> None:
        """Run all due jobs, and the jobs they enqueue."""
        self._wait_for_simulator()
        if periodic:
            with self._services.database.write() as session:
                enqueue_due(session, self._services.queue, PERIODS)
        while True:
            if not self._work():
                return
            self._wait_for_simulator()

    def _work(self) -> int:
        done = 0
        while claims := self._services.queue.claim(self._plan.threads, worker_id="year"):
            list(self._pool.map(lambda claim: run_job(self._services, claim), claims))
            done += len(claims)
        return done

    def _wait_for_simulator(self) -> None:
        pause = threading.Event()
        while True:
            state = self._simulator.state()
            if state["idle"] and not state["outstanding_deliveries"]:
                return
            pause.wait(0.005)

    def _collect(self) -> None:
        calls = self._simulator.calls()
        self._simulator.reset_calls()
        self._calls += len(calls)
        for call in calls:
            lifetime = self._lifetimes.get(call["path"].split("/")[4]) if call["path"].count("/") > 4 else None
            if call["fault"] is not None and lifetime is not None:
                self._failures[lifetime] += 1

    def _report(self) -> Report:
        report = Report(thrown=self._thrown, calls=self._calls, refused=self._refused)
        for lifetime, count in self._plan.certificates.items():
            names = {f"www.{domain}" for domain, days in self._lifetimes.items() if days == lifetime}
            slots = [slot for name, slot in self._ledger.slots.items() if name in names]
            report.rows.append(
                Row(
                    lifetime,
                    len(slots),
                    sum(slot.renewals for slot in slots),
                    self._failures[lifetime],
                    min((slot.lowest for slot in slots), default=0.0),
                    sum(slot.expired for slot in slots) + count - len(slots),
                    sum(slot.out_of_order for slot in slots),
                )
            )
        return report


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where possible: the commits of a year would mostly wait for the disk."""
    memory = Path("/dev/shm")  # noqa: S108, the folder in it is ours alone
    with tempfile.TemporaryDirectory(prefix="certcourier-year-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
