"""Time limits: a destination that hangs blocks a few threads once, and delays no other destination.

A thread that hangs in the kernel cannot be stopped, only abandoned. So destinations work in helper threads, which can
be abandoned; while one of them has not returned, nothing more is started at that destination.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.destinations.base import Destination, DestinationUnavailableError

log = structlog.get_logger("certcourier.destinations")

_WAIT_SECONDS = 1.0
_BUSY_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Attempt:
    """An action of a destination, running or finished."""

    action: Callable[[], Any]
    started: float
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None
    overdue: bool = False


class TimeLimits:
    """Shared by all threads of a process. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._running: dict[str, list[_Attempt]] = {}

    def run[T](self, destination: Destination, action: Callable[[], T]) -> T:
        """The action's result or error.

        Raises `DestinationUnavailableError` if it takes longer than the destination's time limit, and immediately
        while an earlier action that exceeded it has not returned.
        """
        config, attempt = destination.config, self._begin(destination, action)
        if not attempt.done.wait(config.timeout_seconds):
            with self._changed:
                attempt.overdue = not attempt.done.is_set()
                self._changed.notify_all()
        if attempt.overdue:
            raise DestinationUnavailableError(
                f"{config.name} did not finish within {config.timeout_seconds:g} seconds (timeout_seconds); "
                "nothing more is started there until it does"
            )
        if attempt.error is not None:
            raise attempt.error
        result: T = attempt.result
        return result

    def _begin(self, destination: Destination, action: Callable[[], Any]) -> _Attempt:
        with self._changed:
            running = self._running.setdefault(destination.config.name, [])
            while running:
                oldest = running[0]
                seconds = self._clock() - oldest.started
                if any(attempt.overdue for attempt in running):
                    raise DestinationUnavailableError(
                        f"{destination.config.name} has not finished an operation started {seconds:.0f} seconds ago"
                    )
                if len(running) < destination.config.max_concurrency:
                    break
                if seconds >= _WAIT_SECONDS:  # slow, perhaps hanging: do not block a worker's thread
                    raise DestinationUnavailableError(f"{destination.config.name} is busy", retry_after=_BUSY_SECONDS)
                self._changed.wait(_WAIT_SECONDS - seconds)
            attempt = _Attempt(action, self._clock())
            running.append(attempt)
        name = f"destination-{destination.config.name}"
        job = contextvars.copy_context()  # for the job's fields in its log lines
        arguments = (self._do, destination.config.name, attempt)
        threading.Thread(target=job.run, args=arguments, name=name, daemon=True).start()
        return attempt

    def _do(self, name: str, attempt: _Attempt) -> None:
        try:
            attempt.result = attempt.action()
        except BaseException as error:  # noqa: BLE001, raised in the thread that waits for it
            attempt.error = error
        with self._changed:
            attempt.done.set()
            self._running[name].remove(attempt)
            self._changed.notify_all()
        if attempt.overdue:
            seconds = round(self._clock() - attempt.started, 1)
            failure = type(attempt.error).__name__ if attempt.error else None
            log.warning("destination finished after its time limit", destination=name, seconds=seconds, failure=failure)
