"""Scripted faults, checked before and after each call, then random ones."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flask import Response

_ABORT = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Fault:
    """A fault of the next `times` calls of `method` and `path_template`.

    `before`: the call is not processed. `after`: it is processed, and its answer is replaced. `reset` closes the
    connection without an answer, `status` answers with `status`, `body` and `headers`, `half` sends half of the answer,
    `headers` changes headers (null removes one), `none` only waits.
    """

    method: str
    path_template: str
    action: Literal["reset", "status", "half", "headers", "none"]
    when: Literal["before", "after"] = "before"
    times: int = 1
    status: int = 500
    body: str = ""
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str | None] = field(default_factory=dict)
    delay_seconds: float = 0.0
    name: str = "scripted"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Fault:
        """Parse a fault; `json` is a body given as JSON. Raises `TypeError` or `ValueError`."""
        values = dict(document)
        if "json" in values:
            values["body"] = json.dumps(values.pop("json"))
        fault = cls(**values)
        if fault.action not in {"reset", "status", "half", "headers", "none"} or fault.when not in {"before", "after"}:
            raise ValueError("action must be reset, status, half, headers or none; when must be before or after")
        if fault.when == "before" and fault.action in {"half", "headers"}:
            raise ValueError(f"{fault.action} needs an answer; set when = after")
        return fault


class Chance(Protocol):
    """A source of faults that are not scripted."""

    def call_fault(self, when: Literal["before", "after"], path_template: str, now: float) -> Fault | None:
        """The fault of this call, if any."""


class Faults:
    """Outstanding scripted faults, oldest first, and a source of random ones."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._lock = threading.Lock()
        self._scripted: list[Fault] = []
        self._pause = threading.Event()

    def add(self, fault: Fault) -> None:
        """Add a scripted fault."""
        with self._lock:
            self._scripted.append(fault)

    def to_come(self) -> int:
        """The number of calls that scripted faults will still affect."""
        with self._lock:
            return sum(fault.times for fault in self._scripted)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._scripted.clear()

    def find(self, when: Literal["before", "after"], method: str, path_template: str, now: float) -> Fault | None:
        """The fault of this call."""
        return self._take(when, method, path_template) or self._chance.call_fault(when, path_template, now)

    def apply(self, fault: Fault, environ: Mapping[str, Any], answer: Response | None = None) -> Response | None:
        """The answer to return, or None to proceed normally."""
        self.wait(fault.delay_seconds)
        if fault.action == "none":
            return answer
        if fault.action == "status":
            answer = Response(fault.body, fault.status)
            answer.headers["Content-Type"] = fault.content_type
        if fault.action in {"reset", "half"}:
            _cut(environ, _first_half(answer) if answer is not None and fault.action == "half" else None)
            return Response(status=500)
        if answer is not None:
            _change(answer, fault.headers)
        return answer

    def wait(self, seconds: float) -> None:
        """Wait for the fault's delay."""
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


def _change(answer: Response, headers: Mapping[str, str | None]) -> None:
    for name, value in headers.items():
        if value is None:
            answer.headers.pop(name, None)
        else:
            answer.headers[name] = value


def _first_half(answer: Response) -> bytes:
    """Headers with the full length, and half of the body."""
    body = answer.get_data()
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers if name.lower() != "content-length")
    start = f"HTTP/1.1 {answer.status}\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    return start.encode("latin-1") + body[: len(body) // 2]


def _cut(environ: Mapping[str, Any], last_words: bytes | None) -> None:
    """Abort the caller's connection (RST), as a crashing machine does, or close it in the middle of an answer.

    The server still holds the descriptor: it is left with a disconnected pipe, and closing that has no visible effect.
    """
    connection: socket.socket = environ["gunicorn.socket"]
    if last_words is None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    else:
        connection.sendall(last_words)
    ours, nowhere = socket.socketpair()
    nowhere.close()
    os.dup2(ours.fileno(), connection.fileno())
    ours.close()
