"""A server process that a test starts, waits for and ends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import requests

ROOT = Path(__file__).resolve().parents[3]


class ServerProcess:
    """`with ServerProcess(command, ready=..., log=...)`: `ready` is called until it returns true."""

    def __init__(
        self, command: Sequence[str], *, ready: Callable[[], bool], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self._command = list(command)
        self._ready = ready
        self._log = log
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=os.environ | self._environment, stdout=log, stderr=log
            )
        pause, end = threading.Event(), time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, f"{self._command[0]} has ended:\n{self._log.read_text()}"
            assert time.monotonic() < end, f"{self._command[0]} does not answer:\n{self._log.read_text()}"
            pause.wait(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        try:
            return self._ready()
        except requests.RequestException:
            return False
