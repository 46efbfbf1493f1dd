"""gunicorn's threaded worker with an end to its patience.

As it comes (27.0), a thread of it waits for ever for the rest of a request that has begun, so that as many slow senders
as there are threads silence the service, webhooks included; it waits five seconds for the first byte of a connection;
and its main loop stands still for up to two seconds for each client that does not close an answered connection. Here
connections wait in the poller at both ends, which costs no thread, and a request that has begun has to be complete in
time, however its bytes trickle in.
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
_MOST_LINGERING = 256


class DeadlineUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a connection until the deadline of its present request, and then says that there is no more."""

    def __init__(self, sock: Any, seconds: float) -> None:
        super().__init__(sock)
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self.is_over = False

    def begin_request(self) -> None:
        """A new request has its own time."""
        self._deadline = time.monotonic() + self._seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        left = self._deadline - time.monotonic()
        before = self.sock.gettimeout()
        self.is_over = self.is_over or left <= 0
        if self.is_over:  # for good: what comes later is the rest of a request that was given up
            return b""
        self.sock.settimeout(left if before is None else min(left, before))
        try:
            read: bytes = super().chunk(size_hint)
        except TimeoutError:
            self.is_over = True
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
        return super()._keepalive_after(conn, keepalive) and not conn.parser.unreader.is_over

    def murder_pending(self) -> None:
        super().murder_pending()
        now = time.monotonic()
        for sock in [sock for sock, ends in self._lingering.items() if ends <= now]:
            self._end(sock)

    def _linger(self, sock: socket.socket) -> None:
        """Say that there is no more, and wait for the client to say so too (RFC 9112, section 9.6), in the poller."""
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        if len(self._lingering) >= _MOST_LINGERING:
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
            pass  # reset by the client: that is an end too
        self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        del self._lingering[sock]
        self.poller.unregister(sock)
        sock.close()
