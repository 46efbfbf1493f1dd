"""Time limits: a destination that hangs costs a few threads once, and delays no other one.

A thread that hangs in the kernel cannot be ended, only left behind. So what a destination does is done in a helper
thread, which may be left behind; while one is, nothing more is begun at that destination.
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

_PATIENCE_SECONDS = 1.0
_BUSY_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Attempt:
    """One thing that a destination is doing, or has done."""

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
        """The action's result or error, if it comes within the destination's time limit.

        Raises `DestinationUnavailableError` when it does not, and at once while an earlier one has not ended yet.
        """
        config, attempt = destination.config, self._begin(destination, action)
        if not attempt.done.wait(config.timeout_seconds):
            with self._changed:
                attempt.overdue = not attempt.done.is_set()
                self._changed.notify_all()
        if attempt.overdue:
            raise DestinationUnavailableError(
                f"{config.name} did not finish within {config.timeout_seconds:g} seconds (timeout_seconds); "
                "nothing more is begun there until it has"
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
                        f"{destination.config.name} is still busy with what it began {seconds:.0f} seconds ago"
                    )
                if len(running) < destination.config.at_once:
                    break
                if seconds >= _PATIENCE_SECONDS:  # slow, perhaps hanging: no place to wait in for a worker's thread
                    raise DestinationUnavailableError(f"{destination.config.name} is busy", retry_after=_BUSY_SECONDS)
                self._changed.wait(_PATIENCE_SECONDS - seconds)
            attempt = _Attempt(action, self._clock())
            running.append(attempt)
        name = f"destination-{destination.config.name}"
        job = contextvars.copy_context()  # its log lines say what they are about
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
            log.warning("destination has ended what was given up", destination=name, seconds=seconds, failure=failure)
