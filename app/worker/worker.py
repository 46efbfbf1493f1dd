"""The worker: claims what is due, does it in threads, keeps its leases alive, and stops without losing anything."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from psycopg.errors import DeadlockDetected
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.db.clock import db_now
from app.db.models import Worker as WorkerRow
from app.db.models import new_id
from app.dnsimple.errors import AuthenticationError, ForbiddenError, PaymentRequiredError
from app.errors import CertcourierError, PermanentError, RetryableError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, LeaseLostError, Snooze
from app.jobs.wakeup import wakeup_for
from app.services import Services
from app.worker.handlers import HANDLERS
from app.worker.periodic import enqueue_due

log = structlog.get_logger("certcourier.worker")

_POLL_SECONDS = 5.0
_HEARD_SECONDS = 5.0
_ACCOUNT_PAUSE_SECONDS = 300.0
_REMEDIES = {
    AuthenticationError: "set a valid DNSIMPLE_API_TOKEN and restart",
    PaymentRequiredError: "pay the DNSimple account's open invoices",
    ForbiddenError: "give the DNSimple token the scope that is named",
}


def run_job(services: Services, claim: Claim) -> None:
    """Do one claimed job and settle what becomes of it. Never raises but when the database fails."""
    with structlog.contextvars.bound_contextvars(
        job_id=claim.id, job=claim.kind, attempt=claim.attempts, **_ids(claim)
    ):
        _run(services, claim, log.bind())


def _run(services: Services, claim: Claim, bound: structlog.typing.FilteringBoundLogger) -> None:
    started = time.monotonic()
    try:
        _check(claim)
        HANDLERS[claim.kind].run(services, claim)
        bound.debug("job done", seconds=round(time.monotonic() - started, 3))
    except LeaseLostError as error:
        bound.warning("job lost", reason=str(error))
    except Exception as error:  # noqa: BLE001, whatever it is, the job is settled: nothing is swallowed
        try:
            _settle(services, claim, error, bound)
        except LeaseLostError as lost:
            bound.warning("job lost", reason=str(lost))


def _check(claim: Claim) -> None:
    if claim.kind not in HANDLERS:
        raise PermanentError(f"this version knows no job of the kind {claim.kind!r}")
    if claim.attempts > claim.max_attempts:  # nobody gave it back: each time its process died
        raise PermanentError(f"its worker died while doing it, the last of {claim.max_attempts} times")


def _settle(services: Services, claim: Claim, error: Exception, bound: structlog.typing.FilteringBoundLogger) -> None:
    reason = str(error) or type(error).__name__
    match error:
        case Snooze():
            services.queue.snooze(claim, error.seconds, reason)
            bound.info("job postponed", seconds=error.seconds, reason=reason)
        case AuthenticationError() | PaymentRequiredError() | ForbiddenError():
            # The account or its token is at fault, the job itself is sound: it waits for the operator. Asking more
            # often would only burn the quota.
            services.queue.snooze(claim, _ACCOUNT_PAUSE_SECONDS, reason)
            bound.error("account at fault", reason=reason, remedy=_REMEDIES[type(error)])
        case RetryableError(retry_after=float() | int() as seconds):
            services.queue.snooze(claim, max(1.0, seconds), reason)
            bound.warning("job postponed", seconds=seconds, reason=reason)
        case PermanentError():
            _mark_dead(services, claim, reason, bound)
        case _ if claim.attempts >= claim.max_attempts:
            _mark_dead(services, claim, reason, bound)
        case OperationalError(orig=DeadlockDetected()):
            # Two transactions met, and PostgreSQL ended this one: nothing of it was done, and the other one goes on.
            pause = services.queue.retry(claim, "deadlock", delay=1.0)
            bound.warning("job will be retried", seconds=pause, reason="deadlock")
        case CertcourierError():
            pause = services.queue.retry(claim, reason)
            bound.warning("job will be retried", seconds=round(pause, 1), reason=reason)
        case _:
            pause = services.queue.retry(claim, f"{type(error).__name__}: {reason}")
            bound.exception("job failed unexpectedly", seconds=round(pause, 1), exc_info=error)


def _mark_dead(services: Services, claim: Claim, reason: str, bound: structlog.typing.FilteringBoundLogger) -> None:
    with services.database.write() as session:
        services.queue.mark_dead(session, claim, reason)
        if (handler := HANDLERS.get(claim.kind)) and handler.on_death:
            handler.on_death(services, session, claim, reason)
    bound.error("job dead", reason=reason, remedy=f"mend the cause, then `flask jobs retry {claim.id}`")


def _ids(claim: Claim) -> dict[str, object]:
    return {name: claim.args[name] for name in ("order_id", "certificate_id", "event_id") if claim.args.get(name)}


class Worker:
    """One process's worker. `run()` returns after `stop()` or SIGTERM, when the jobs at hand are done."""

    def __init__(self, services: Services) -> None:
        self.id = new_id("wrk")
        self._services = services
        self._threads = services.settings.worker_threads
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._at_hand: dict[str, Claim] = {}

    def run(self) -> None:
        """Work until stopped."""
        self._start()
        helpers = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._keep_alive)]
        for helper in helpers:
            helper.start()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="job") as pool:
            while not self._stopping.is_set():
                self._wake.clear()
                free = self._threads - len(self._at_hand)
                claims = self._claim(free)
                for claim in claims:
                    with self._lock:
                        self._at_hand[claim.token] = claim
                    pool.submit(self._do, claim)
                if not claims or len(self._at_hand) >= self._threads:
                    self._wake.wait(self._pause())
            log.info("worker stopping", jobs_at_hand=len(self._at_hand))
        self._done.set()
        for helper in helpers:
            helper.join()
        self._guarded(self._say_goodbye, None)
        log.info("worker stopped", worker_id=self.id)

    def stop(self) -> None:
        """Claim nothing more; `run` returns when the jobs at hand are done. Safe in a signal handler."""
        self._stopping.set()
        self._wake.set()

    def stop_on_signals(self) -> None:
        """Make SIGTERM and SIGINT a graceful stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def _start(self) -> None:
        with self._services.database.write() as session:
            session.add(self._row())
            self._services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
        log.info("worker started", worker_id=self.id, threads=self._threads)

    def _claim(self, free: int) -> list[Claim]:
        nothing: list[Claim] = []
        return self._guarded(lambda: self._services.queue.claim(free, worker_id=self.id), nothing) if free else nothing

    def _do(self, claim: Claim) -> None:
        try:
            run_job(self._services, claim)
        except SQLAlchemyError as error:
            # The database is away: the lease will run out and the job be taken up again.
            reason = type(error).__name__
            log.error("job left to its lease", job_id=claim.id, job=claim.kind, reason=reason)  # noqa: TRY400
        except Exception:
            log.exception("job left to its lease", job_id=claim.id, job=claim.kind)
        finally:
            with self._lock:
                del self._at_hand[claim.token]
            self._wake.set()

    def _pause(self) -> float:
        if len(self._at_hand) >= self._threads:
            return _POLL_SECONDS
        due = self._guarded(self._services.queue.seconds_until_due, None)
        return _POLL_SECONDS if due is None else min(_POLL_SECONDS, due + 0.001)

    def _listen(self) -> None:
        wakeup = wakeup_for(self._services.database)
        while not self._stopping.is_set():
            if wakeup.wait(1.0):
                self._wake.set()
        wakeup.close()

    def _keep_alive(self) -> None:
        interval = min(_HEARD_SECONDS, self._services.queue.lease_seconds / 3)
        self._guarded(self._say_alive, None)
        while not self._done.wait(interval):  # also while the last jobs at hand are being finished
            self._guarded(self._say_alive, None)

    def _row(self) -> WorkerRow:
        encryptor = self._services.encryptor
        encryptor.refresh()
        keys = list(encryptor.key_ids)
        return WorkerRow(
            id=self.id, host=socket.gethostname(), pid=os.getpid(), last_heartbeat_at=db_now(), key_ids=keys
        )

    def _say_alive(self) -> None:
        with self._lock:
            tokens = list(self._at_hand)
        if tokens:
            self._services.queue.heartbeat(tokens)
        with self._services.database.write() as session:
            session.merge(self._row())
            if not self._stopping.is_set():
                enqueue_due(session, self._services.queue)

    def _say_goodbye(self) -> None:
        """A worker that was stopped is not one that fell silent."""
        with self._services.database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == self.id))

    def _guarded[T](self, action: Callable[[], T], otherwise: T) -> T:
        """A database that is away must not end the worker: say so, and try again at the next turn."""
        try:
            return action()
        except SQLAlchemyError as error:
            log.error("database unavailable", reason=type(error).__name__)  # noqa: TRY400, no news in its traceback
            self._stopping.wait(1.0)
            return otherwise
