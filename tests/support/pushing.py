"""Deliveries by a process that is killed (`kill -9`) at a point that the test names.

The process loads a destination once and forks for each delivery, so that many points cost little.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any

from app.crypto.private_key import PrivateKey
from app.destinations.base import Bundle


class _Pickler(pickle.Pickler):
    """Pickles private keys too, which refuse it everywhere else."""

    def reducer_override(self, value: object) -> Any:
        return (PrivateKey, (value.reveal(),)) if isinstance(value, PrivateKey) else NotImplemented


@dataclass(frozen=True)
class Push:
    """One delivery; killed when `points`, methods as `module:Class.name`, are called for the `kill_at`th time."""

    destination: str
    config: dict[str, Any]
    bundle: Bundle
    points: tuple[str, ...]
    kill_at: int


class Pusher:
    """The process, used from a test."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._tasks, self._results = process.stdin, process.stdout

    def killed(self, push: Push) -> bool:
        """Deliver; whether it was killed before it was done. Any other exit fails the test."""
        _Pickler(self._tasks).dump(push)
        self._tasks.flush()
        status: int = pickle.load(self._results)  # noqa: S301, our own process
        assert status in {0, -signal.SIGKILL}, status
        return status != 0


@contextmanager
def pusher() -> Iterator[Pusher]:
    """A running process."""
    command = [sys.executable, "-m", "tests.support.pushing"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Pusher(process)  # its input is closed then, which ends it


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _kill_at(points: tuple[str, ...], number: int) -> None:
    calls = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **more)

        return call

    for point in points:
        owner, _, name = point.rpartition("." if "." in point.partition(":")[2] else ":")
        holder = _find(owner) if ":" in owner else import_module(owner)
        setattr(holder, name, counted(getattr(holder, name)))


def _serve(tasks: IO[bytes], results: IO[bytes]) -> None:
    while True:
        try:
            push: Push = pickle.load(tasks)  # noqa: S301, our own test
        except EOFError:
            return
        kind = _find(push.destination)
        child = os.fork()
        if child == 0:
            _kill_at(push.points, push.kill_at)
            kind(kind.Config.model_validate(push.config)).deliver(push.bundle)
            os._exit(0)
        pickle.dump(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), results)
        results.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
