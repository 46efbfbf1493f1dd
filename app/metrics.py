"""What only the processes themselves know: requests answered, calls to DNSimple, events taken in.

Everything else is read from the database when it is asked for (`app.operations.metrics_collectors`).
Processes of one host add up in a folder: each writes a file of its own there, and whoever is asked reads them all.
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
# Bytes for each kind of metric; a histogram of one set of labels takes about 3,000.
_ROOM = {"counter": 2**17, "histogram": 2**20}
# Contract of DNSimple's webhooks, the certificate's events; a name that is new to us counts as `other`.
CERTIFICATE_EVENTS = {
    "certificate.issue",
    "certificate.reissue",
    "certificate.auto_renewal_disable",
    "certificate.auto_renewal_enable",
    "certificate.auto_renewal_failed",
    "certificate.remove_private_key",
}


class ProcessMetrics:
    """Counts in this process alone, until `share` is called. Labels have few values: none comes from outside as is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._folder: Path | None = None
        self._has_room_in: int | None = None
        self._lock = threading.Lock()
        self._http = Histogram(
            "certcourier_http_request_duration_seconds",
            "Time to answer a request, by route and status.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._dnsimple = Histogram(
            "certcourier_dnsimple_call_duration_seconds",
            "Time of a call to DNSimple; status `none` when no answer came.",
            ("method", "path", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._events = Counter(
            "certcourier_events",
            "Events of DNSimple taken in, duplicates too.",
            ("name", "outcome"),
            registry=self.registry,
        )

    def request_answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the rule, never the path."""
        if self._has_room():
            self._http.labels(method if method in _METHODS else "other", route, str(status)).observe(seconds)

    def dnsimple_called(self, method: str, path: str, status: int | None, seconds: float) -> None:
        """`path` is the template without values."""
        if self._has_room():
            self._dnsimple.labels(method, path, "none" if status is None else str(status)).observe(seconds)

    def event_taken_in(self, name: str, outcome: str) -> None:
        """`name` is a stranger's text."""
        if self._has_room():
            self._events.labels(event_label(name), outcome).inc()

    def share(self, folder: Path) -> None:
        """Count in `folder` from now on, together with this host's other processes. Call before the first count.

        Where that cannot be, each process counts alone: nothing stops working for want of metrics.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fold(folder)
        except OSError as error:
            log.warning("metrics are not shared between processes", reason=str(error))
            return
        # The library decides this when it is imported, from the environment: before our settings are known.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = values.MultiProcessValue(_process)
        self._folder = folder

    def _has_room(self) -> bool:
        """Whether this process's files are whole on the disk, not sparse: writing to a mapped file for which a full
        disk has no room ends the process. What cannot be counted is not counted.
        """
        if self._folder is None or self._has_room_in == os.getpid():
            return True
        try:
            with self._lock:
                for kind, size in _ROOM.items():
                    _reserve(self._folder / f"{kind}_{_process()}.db", size)
        except OSError:
            return False
        self._has_room_in = os.getpid()
        return True

    def collect(self) -> list[Metric]:
        """What was counted by all processes that share the folder, or by this one alone."""
        described = {metric.name: metric for metric in self.registry.collect()}
        if self._folder is not None:
            with _locked(self._folder, fcntl.LOCK_SH):
                found = MultiProcessCollector(None, str(self._folder)).collect()
            described |= {metric.name: metric for metric in found}
        return list(described.values())


def event_label(name: str) -> str:
    """An event's name as a label: certificates' events by their names, all others as `other`."""
    return name if name in CERTIFICATE_EVENTS else "other"


def fold_dead_processes(folder: Path) -> None:
    """Add the counts of processes that have ended to one file of their host: no count is lost, no file left over.

    Another host's file (a container's that is gone) counts as left behind when nothing was counted there for a day.
    Never raises: gunicorn calls this, and would end.
    """
    try:
        _fold(folder)
    except OSError as error:
        log.warning("counts of processes that have ended stay in their files", reason=str(error))


def _fold(folder: Path) -> None:
    with _locked(folder, fcntl.LOCK_EX):
        for file in folder.glob("*.db"):
            kind, _, process = file.stem.partition("_")
            host, _, pid = process.rpartition("-")
            if pid == "past" or not pid.isdigit():
                continue
            gone = not is_alive(int(pid)) if host == _host() else time.time() - file.stat().st_mtime > _DAY
            if gone:
                _reserve(folder / f"{kind}_{_host()}-past.db", _ROOM[kind])
                past = MmapedDict(str(folder / f"{kind}_{_host()}-past.db"))
                for key, value, _timestamp, _position in MmapedDict.read_all_values_from_file(str(file)):
                    past.write_value(key, past.read_value(key)[0] + value, 0.0)
                past.close()
                file.unlink()


def _reserve(file: Path, size: int) -> None:
    """Make it, whole from its first instant: whoever collects reads every file that is there."""
    if not file.exists():
        new = file.with_suffix(".new")
        with new.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
        new.rename(file)


def _process() -> str:
    """Unique among processes that share a folder: containers have process IDs of their own."""
    return f"{_host()}-{os.getpid()}"


@functools.cache
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "", socket.gethostname()) or "host"


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Nobody reads while counts are moved from one file to another: they would be seen twice."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, how)
        yield
