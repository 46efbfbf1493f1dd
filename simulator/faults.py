"""Misbehaviour on request: a list of scripted faults, looked through before and after each call."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flask import Response

_ABORT = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` calls of `method` and `path_template`.

    `before`: instead of the call, nothing is done. `after`: it is done, and its answer is replaced. `reset` closes the
    connection without an answer, `status` answers with `status`, `body` and `headers`, `none` only waits.
    """

    method: str
    path_template: str
    action: Literal["reset", "status", "none"]
    when: Literal["before", "after"] = "before"
    times: int = 1
    status: int = 500
    body: str = ""
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Fault:
        """From the control interface; `json` is a body written as JSON. Raises `TypeError` or `ValueError`."""
        values = dict(document)
        if "json" in values:
            values["body"] = json.dumps(values.pop("json"))
        fault = cls(**values)
        if fault.action not in {"reset", "status", "none"} or fault.when not in {"before", "after"}:
            raise ValueError("action is reset, status or none; when is before or after")
        return fault


class Faults:
    """The faults that are still to come, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripted: list[Fault] = []
        self._pause = threading.Event()

    def add(self, fault: Fault) -> None:
        """Script one more."""
        with self._lock:
            self._scripted.append(fault)

    def clear(self) -> None:
        """Behave from now on."""
        with self._lock:
            self._scripted.clear()

    def apply(
        self, when: Literal["before", "after"], method: str, path_template: str, environ: Mapping[str, Any]
    ) -> Response | None:
        """The answer to give instead, or None to go on as usual."""
        fault = self._take(when, method, path_template)
        if fault is None:
            return None
        self.wait(fault.delay_seconds)
        if fault.action == "none":
            return None
        if fault.action == "reset":
            _cut(environ)
            return Response(status=500)
        answer = Response(fault.body, fault.status, fault.headers)
        answer.headers["Content-Type"] = fault.content_type
        return answer

    def wait(self, seconds: float) -> None:
        """Take that long."""
        if seconds > 0:
            self._pause.wait(seconds)

    def _take(self, when: str, method: str, path_template: str) -> Fault | None:
        with self._lock:
            for fault in self._scripted:
                if (fault.when, fault.method, fault.path_template) == (when, method, path_template):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._scripted.remove(fault)
                    return fault
        return None


def _cut(environ: Mapping[str, Any]) -> None:
    """Abort the caller's connection at once (RST), as a machine does that goes down.

    The server still holds the descriptor: it is left with a pipe to nowhere, whose closing nobody sees.
    """
    connection: socket.socket = environ["gunicorn.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    ours, nowhere = socket.socketpair()
    nowhere.close()
    os.dup2(ours.fileno(), connection.fileno())
    ours.close()
