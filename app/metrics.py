"""Metrics that only the processes know: requests answered, calls to DNSimple, events received.

All other metrics are read from the database on each scrape (`app.operations.metrics_collectors`).
The processes of one host share a folder: each process writes its own files there, and a scrape adds up all of them.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from app.process_liveness import is_alive

log = structlog.get_logger("certcourier.metrics")

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}
_DAY = 86400
# Size in bytes of each process's file; a histogram takes about 3,000 for each set of labels.
_FILE_SIZES = {"counter": 2**17, "histogram": 2**20}
# The certificate events of DNSimple's webhook documentation; any other name is counted as `other`.
CERTIFICATE_EVENTS = {
    "certificate.issue",
    "certificate.reissue",
    "certificate.auto_renewal_disable",
    "certificate.auto_renewal_enable",
    "certificate.auto_renewal_failed",
    "certificate.remove_private_key",
}


class ProcessMetrics:
    """Counts within this process until `share` is called. No label takes a value from outside unchecked."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._folder: Path | None = None
        self._reserved_by: int | None = None
        self._lock = threading.Lock()
        self._http = Histogram(
            "certcourier_http_request_duration_seconds",
            "Duration of HTTP requests, by method, route and status.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._dnsimple = Histogram(
            "certcourier_dnsimple_call_duration_seconds",
            "Duration of calls to DNSimple; status `none` if no response was received.",
            ("method", "path", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._events = Counter(
            "certcourier_events",
            "Events received from DNSimple, including duplicates.",
            ("name", "outcome"),
            registry=self.registry,
        )

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Observe an answered request; `route` is the URL rule, never the path."""
        if self._reserve_files():
            self._http.labels(method if method in _METHODS else "other", route, str(status)).observe(seconds)

    def observe_dnsimple_call(self, method: str, path: str, status: int | None, seconds: float) -> None:
        """Observe a call to DNSimple; `path` is the template without values."""
        if self._reserve_files():
            self._dnsimple.labels(method, path, "none" if status is None else str(status)).observe(seconds)

    def count_event(self, name: str, outcome: str) -> None:
        """Count a received event; `name` is untrusted input."""
        if self._reserve_files():
            self._events.labels(event_label(name), outcome).inc()

    def share(self, folder: Path) -> None:
        """Share counts with this host's other processes through `folder`. Call before the first count.

        If the folder cannot be used, the process counts alone: metrics never prevent a start.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fold(folder)
        except OSError as error:
            log.warning("metrics not shared between processes", reason=str(error))
            return
        # The library decides this when it is imported, from the environment: before our settings are known.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = values.MultiProcessValue(_process)
        self._folder = folder

    def _reserve_files(self) -> bool:
        """Allocate this process's files on the disk; False if that fails, and nothing is counted then.

        A write to a sparse memory-mapped file on a full disk would kill the process (SIGBUS).
        """
        if self._folder is None or self._reserved_by == os.getpid():
            return True
        try:
            with self._lock:
                for kind, size in _FILE_SIZES.items():
                    _reserve(self._folder / f"{kind}_{_process()}.db", size)
        except OSError:
            return False
        self._reserved_by = os.getpid()
        return True

    def collect(self) -> list[Metric]:
        """The totals of all processes that share the folder, or of this process alone."""
        described = {metric.name: metric for metric in self.registry.collect()}
        if self._folder is not None:
            with _locked(self._folder, fcntl.LOCK_SH):
                found = MultiProcessCollector(None, str(self._folder)).collect()
            described |= {metric.name: metric for metric in found}
        return list(described.values())


def event_label(name: str) -> str:
    """The label value of an event: the name of a certificate event, or `other`."""
    return name if name in CERTIFICATE_EVENTS else "other"


def fold_dead_processes(folder: Path) -> None:
    """Merge the files of ended processes into one file for each host, without losing a count.

    A file of another host (such as a removed container) is merged once it has not changed for a day.
    Never raises, since an exception in gunicorn's hook would stop gunicorn.
    """
    try:
        _fold(folder)
    except OSError as error:
        log.warning("metrics files of ended processes not merged", reason=str(error))


def _fold(folder: Path) -> None:
    with _locked(folder, fcntl.LOCK_EX):
        for file in folder.glob("*.db"):
            kind, _, process = file.stem.partition("_")
            host, _, pid = process.rpartition("-")
            if pid == "past" or not pid.isdigit():
                continue
            ended = not is_alive(int(pid)) if host == _host() else time.time() - file.stat().st_mtime > _DAY
            if ended:
                total = folder / f"{kind}_{_host()}-past.db"
                _reserve(total, _FILE_SIZES[kind])
                past = MmapedDict(str(total))
                for key, value, _timestamp, _position in MmapedDict.read_all_values_from_file(str(file)):
                    past.write_value(key, past.read_value(key)[0] + value, 0.0)
                past.close()
                file.unlink()


def _reserve(file: Path, size: int) -> None:
    """Create the file, complete as soon as it is visible: a collector reads every file in the folder."""
    if not file.exists():
        new = file.with_suffix(".new")
        with new.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
        new.rename(file)


def _process() -> str:
    """Unique among the processes that share a folder: containers have separate process IDs."""
    return f"{_host()}-{os.getpid()}"


@functools.cache
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "", socket.gethostname()) or "host"


@contextmanager
def _locked(folder: Path, mode: int) -> Iterator[None]:
    """Exclude readers while counts move from one file to another, so that none is counted twice."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, mode)
        yield
