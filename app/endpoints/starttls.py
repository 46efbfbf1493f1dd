"""STARTTLS in the server's own protocol, line by line and never reading beyond the response.

Python's smtplib, imaplib and poplib do it too, but send the address that they connect to as the server name (SNI), not
the name whose certificate is probed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Literal, get_args

Protocol = Literal["smtp", "imap", "pop3", "postgresql"]

_MAX_LINE_BYTES = 4096
_MAX_LINES = 200


class TLSRefusedError(Exception):
    """The server does not start TLS; the message quotes its response."""


class Wire:
    """A connected socket with one deadline for everything, on the monotonic clock."""

    def __init__(self, connected: socket.socket, limit: float) -> None:
        self.socket = connected
        self._limit = limit

    def set_timeout(self) -> None:
        """Give the next step the remaining time. Raises TimeoutError if there is none."""
        left = self._limit - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)

    def send(self, data: bytes) -> None:
        self.set_timeout()
        self.socket.sendall(data)

    def byte(self) -> bytes:
        """The next byte. One at a time: what follows the response belongs to the TLS handshake."""
        self.set_timeout()
        found = self.socket.recv(1)
        if not found:
            raise TLSRefusedError("the server closed the connection")
        return found

    def line(self) -> str:
        """The next line, without its end."""
        line = b""
        while not line.endswith(b"\n"):
            line += self.byte()
            if len(line) > _MAX_LINE_BYTES:
                raise TLSRefusedError("the server sent a line that is too long")
        return line.decode("ascii", "replace").rstrip()


def _smtp(wire: Wire) -> None:
    """RFC 3207."""
    _smtp_reply(wire, "220")
    wire.send(b"EHLO certcourier.invalid\r\n")
    offered = [line[4:].strip().upper() for line in _smtp_reply(wire, "250")]
    if "STARTTLS" not in offered:
        raise TLSRefusedError("the server does not offer STARTTLS")
    wire.send(b"STARTTLS\r\n")
    _smtp_reply(wire, "220")


def _smtp_reply(wire: Wire, code: str) -> list[str]:
    lines = [wire.line()]
    while lines[-1][3:4] == "-" and len(lines) < _MAX_LINES:
        lines.append(wire.line())
    if not lines[-1].startswith(code):
        raise TLSRefusedError(f"the server responded {_shown(lines[-1])}")
    return lines


def _imap(wire: Wire) -> None:
    """RFC 9051, section 6.2.1."""
    greeting = wire.line()
    if not greeting.startswith("* OK"):
        raise TLSRefusedError(f"the server responded {_shown(greeting)}")
    wire.send(b"c1 STARTTLS\r\n")
    for _ in range(_MAX_LINES):
        line = wire.line()
        if line.startswith("c1 "):
            if not line.upper().startswith("C1 OK"):
                raise TLSRefusedError(f"the server responded {_shown(line)}")
            return
    raise TLSRefusedError("the server did not respond to STARTTLS")


def _pop3(wire: Wire) -> None:
    """RFC 2595, section 4."""
    _pop3_reply(wire)
    wire.send(b"STLS\r\n")
    _pop3_reply(wire)


def _pop3_reply(wire: Wire) -> None:
    line = wire.line()
    if not line.startswith("+OK"):
        raise TLSRefusedError(f"the server responded {_shown(line)}")


def _postgresql(wire: Wire) -> None:
    """SSLRequest: PostgreSQL's documentation, "Message Flow"; the answer is one byte."""
    wire.send((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
    answer = wire.byte()
    if answer != b"S":
        raise TLSRefusedError(
            "the server does not support TLS (ssl = off)" if answer == b"N" else "it is not PostgreSQL"
        )


def _shown(line: str) -> str:
    return repr(line[:200])


STARTTLS: Mapping[Protocol, Callable[[Wire], None]] = {
    "smtp": _smtp,
    "imap": _imap,
    "pop3": _pop3,
    "postgresql": _postgresql,
}
assert set(STARTTLS) == set(get_args(Protocol))  # noqa: S101, a protocol without its steps is a mistake of ours
