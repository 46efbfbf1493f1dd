"""The worker: claims due jobs, runs them in threads, extends their leases and stops without losing any."""

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
from app.errors import AccountBlockedError, CertcourierError, PermanentError, RetryableError
from app.jobs.kinds import JobKind
from app.jobs.queue import ACCOUNT_BLOCKED, ACCOUNT_BLOCKED_INTERVAL, Claim, LeaseLostError, Snooze
from app.jobs.wakeup import wakeup_for
from app.operations.job_retry import instead_of_retrying
from app.services import Services
from app.worker.handlers import HANDLERS, Handler
from app.worker.periodic import enqueue_due

log = structlog.get_logger("certcourier.worker")

_POLL_SECONDS = 5.0
_HEARTBEAT_SECONDS = 5.0


def run_job(services: Services, claim: Claim) -> None:
    """Run a claimed job and record its outcome. Raises only errors of the database.

    A handler returns or raises. If it returns, the job is complete: the handler has committed the completion together
    with its last effects (`Queue.finishing`), or it is committed here.
    """
    subject = {
        name: claim.args[name] for name in ("order_id", "certificate_id", "request_identifier") if claim.args.get(name)
    }
    with structlog.contextvars.bound_contextvars(job_id=claim.id, job=claim.kind, attempt=claim.attempts, **subject):
        started = time.monotonic()
        try:
            _handler(claim).run(services, claim)
            services.queue.complete(claim)
            log.debug("job done", seconds=round(time.monotonic() - started, 3))
        except LeaseLostError as error:
            log.warning("job lost", reason=str(error))
        except Exception as error:  # noqa: BLE001, every outcome is recorded: nothing is swallowed
            try:
                _record_failure(services, claim, error)
            except LeaseLostError as lost:
                log.warning("job lost", reason=str(lost))


def _handler(claim: Claim) -> Handler:
    if claim.kind not in HANDLERS:
        raise PermanentError(f"this version does not know the job kind {claim.kind!r}")
    if claim.attempts > claim.max_attempts:  # no attempt was given back: each ended with its process
        raise PermanentError(f"the worker died during each of {claim.max_attempts} attempts")
    return HANDLERS[claim.kind]


def _record_failure(services: Services, claim: Claim, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    match error:
        case Snooze():
            services.queue.snooze(claim, error.seconds, reason)
            log.info("job snoozed", seconds=error.seconds, reason=reason)
        case AccountBlockedError():
            # The job itself is sound and waits for the operator. More attempts would only consume quota.
            # A rejected token has its own alert, from the quota.
            blocked = reason if error.affects_all_calls else f"{ACCOUNT_BLOCKED}{reason}; {error.remedy}"
            services.queue.snooze(claim, ACCOUNT_BLOCKED_INTERVAL.total_seconds(), blocked)
            log.error("account blocked", reason=reason, remedy=error.remedy)
        case RetryableError(retry_after=float() | int() as seconds):
            services.queue.snooze(claim, max(1.0, seconds), reason)
            log.warning("job snoozed", seconds=seconds, reason=reason)
        case PermanentError():
            _mark_dead(services, claim, reason)
        case _ if claim.attempts >= claim.max_attempts:
            _mark_dead(services, claim, reason)
        case OperationalError(orig=DeadlockDetected()):
            # PostgreSQL rolled this transaction back; the one that it conflicted with continues.
            delay = services.queue.retry(claim, "deadlock", delay=1.0)
            log.warning("job will be retried", seconds=delay, reason="deadlock")
        case CertcourierError():
            delay = services.queue.retry(claim, reason)
            log.warning("job will be retried", seconds=round(delay, 1), reason=reason)
        case _:
            delay = services.queue.retry(claim, f"{type(error).__name__}: {reason}")
            log.error("job failed unexpectedly", seconds=round(delay, 1), exc_info=error)


def _mark_dead(services: Services, claim: Claim, reason: str) -> None:
    with services.database.write() as session:
        services.queue.mark_dead(session, claim, reason)
        handler = HANDLERS.get(claim.kind)
        if handler and handler.on_death:
            handler.on_death(services, session, claim, reason)
    remedy = instead_of_retrying(claim.kind) or f"fix the cause, then `certcourier jobs retry {claim.id}`"
    log.error("job failed permanently", reason=reason, remedy=remedy)


class Worker:
    """A process's worker. After `stop()` or SIGTERM, `run()` returns when the jobs in progress are done."""

    def __init__(self, services: Services) -> None:
        self.id = new_id("wrk")
        self._services = services
        self._threads = services.settings.worker_threads
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._in_progress: dict[str, Claim] = {}

    def run(self) -> None:
        """Run jobs until stopped."""
        self._start()
        helpers = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._keep_alive)]
        for helper in helpers:
            helper.start()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="job") as pool:
            while not self._stopping.is_set():
                self._wake.clear()
                free = self._threads - len(self._in_progress)
                claims = self._claim(free)
                for claim in claims:
                    with self._lock:
                        self._in_progress[claim.token] = claim
                    pool.submit(self._do, claim)
                if not claims or len(self._in_progress) >= self._threads:
                    self._wake.wait(self._pause())
            log.info("worker stopping", jobs_in_progress=len(self._in_progress))
        self._done.set()
        for helper in helpers:
            helper.join()
        self._guarded(self._unregister, None)
        log.info("worker stopped", worker_id=self.id)

    def stop(self) -> None:
        """Claim no more jobs; `run` returns when those in progress are done. Safe in a signal handler."""
        self._stopping.set()
        self._wake.set()

    def stop_on_signals(self) -> None:
        """Stop gracefully on SIGTERM and SIGINT."""
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: self.stop())

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
            # The job is claimed again when its lease expires.
            reason = type(error).__name__
            log.error("job abandoned until its lease expires", job_id=claim.id, job=claim.kind, reason=reason)  # noqa: TRY400
        except Exception:
            log.exception("job abandoned until its lease expires", job_id=claim.id, job=claim.kind)
        finally:
            with self._lock:
                del self._in_progress[claim.token]
            self._wake.set()

    def _pause(self) -> float:
        if len(self._in_progress) >= self._threads:
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
        interval = min(_HEARTBEAT_SECONDS, self._services.queue.lease_seconds / 3)
        self._guarded(self._heartbeat, None)
        while not self._done.wait(interval):  # also while the last jobs finish
            self._guarded(self._heartbeat, None)

    def _row(self) -> WorkerRow:
        encryptor = self._services.encryptor
        encryptor.refresh()
        keys = list(encryptor.key_ids)
        return WorkerRow(
            id=self.id, host=socket.gethostname(), pid=os.getpid(), last_heartbeat_at=db_now(), key_ids=keys
        )

    def _heartbeat(self) -> None:
        with self._lock:
            tokens = list(self._in_progress)
        if tokens:
            self._services.queue.heartbeat(tokens)
        with self._services.database.write() as session:
            session.merge(self._row())
            if not self._stopping.is_set():
                enqueue_due(session, self._services.queue)

    def _unregister(self) -> None:
        """Remove the worker's row: a stopped worker must not be reported as one without a heartbeat."""
        with self._services.database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == self.id))

    def _guarded[T](self, action: Callable[[], T], default: T) -> T:
        """Run the action; while the database is unavailable, log that and return `default` instead of stopping."""
        try:
            return action()
        except SQLAlchemyError as error:
            log.error("database unavailable", reason=type(error).__name__)  # noqa: TRY400, the traceback adds nothing
            self._stopping.wait(1.0)
            return default
