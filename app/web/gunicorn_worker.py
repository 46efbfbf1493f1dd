"""gunicorn's threaded worker with deadlines for clients.

In gunicorn 27.0, a thread waits indefinitely for the rest of a request, so as many slow senders as there are threads
block the service, webhooks included; it waits five seconds for the first byte of a connection; and the main loop blocks
for up to two seconds for each client that does not close an answered connection. Here, idle connections wait in the
poller, which costs no thread, and a request must be complete by a deadline, however slowly its bytes arrive.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

_LINGER_SECONDS = 2.0
_MAX_LINGERING = 256


class DeadlineUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a connection until the deadline of the current request, and reports end of file from then on."""

    def __init__(self, sock: Any, seconds: float) -> None:
        super().__init__(sock)
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self.has_timed_out = False

    def begin_request(self) -> None:
        """Start the deadline of a new request."""
        self._deadline = time.monotonic() + self._seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        remaining = self._deadline - time.monotonic()
        before = self.sock.gettimeout()
        self.has_timed_out = self.has_timed_out or remaining <= 0
        if self.has_timed_out:  # permanently: later bytes belong to the request that was cut off
            return b""
        self.sock.settimeout(remaining if before is None else min(remaining, before))
        try:
            read: bytes = super().chunk(size_hint)
        except TimeoutError:
            self.has_timed_out = True
            return b""
        finally:
            self.sock.settimeout(before)
        return read


class _Connection(TConn):  # type: ignore[misc]
    def __init__(self, *args: Any, seconds: float, linger: Callable[[socket.socket], None]) -> None:
        super().__init__(*args)
        self._seconds = seconds
        self._linger = linger

    def init(self) -> None:
        if self.initialized:
            self.parser.unreader.begin_request()
            return
        super().init()
        self.parser.unreader = DeadlineUnreader(self.sock, self._seconds)

    def close(self, graceful: bool = False) -> None:
        if graceful:
            self._linger(self.sock)
        else:
            super().close()


class DeadlineWorker(ThreadWorker):  # type: ignore[misc]
    """`request_read_timeout_seconds` is set by gunicorn.conf.py."""

    request_read_timeout_seconds = 15.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: dict[socket.socket, float] = {}

    def accept(self, listener: Any) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK}:
                raise
            return
        self.nr_conns += 1
        connection = _Connection(
            *(self.cfg, client, address, listener.getsockname()),
            seconds=self.request_read_timeout_seconds,
            linger=self._linger,
        )
        connection.set_timeout()
        self.pending_conns.append(connection)
        readable = partial(self.on_pending_socket_readable, connection)
        self.poller.register(connection.sock, selectors.EVENT_READ, readable)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        return super()._keepalive_after(conn, keepalive) and not conn.parser.unreader.has_timed_out

    def murder_pending(self) -> None:
        super().murder_pending()
        now = time.monotonic()
        for sock in [sock for sock, deadline in self._lingering.items() if deadline <= now]:
            self._end(sock)

    def _linger(self, sock: socket.socket) -> None:
        """Close our side, and wait in the poller for the client to close its side (RFC 9112, section 9.6)."""
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        if len(self._lingering) >= _MAX_LINGERING:
            sock.close()
            return
        self._lingering[sock] = time.monotonic() + _LINGER_SECONDS
        self.poller.register(sock, selectors.EVENT_READ, self._drain)

    def _drain(self, sock: socket.socket) -> None:
        try:
            if sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset by the client: closed as well
        self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        del self._lingering[sock]
        self.poller.unregister(sock)
        sock.close()
