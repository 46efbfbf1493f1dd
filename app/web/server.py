"""gunicorn's threaded worker with an end to its patience.

As it comes, a thread of it waits for ever for the rest of a request that has begun, so that as many slow senders as
there are threads silence the service, webhooks included; and for five seconds for the first byte of each connection.
Here a new connection waits in the poller, which costs no thread, and a request that has begun has to be complete in
time, however its bytes trickle in.
"""

from __future__ import annotations

import errno
import selectors
import time
from functools import partial
from typing import Any

from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker


class PatientUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a connection until the deadline of its present request, and then says that there is no more."""

    def __init__(self, sock: Any, seconds: float) -> None:
        super().__init__(sock)
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._is_over = False

    def begin_request(self) -> None:
        """A new request has its own time."""
        self._deadline = time.monotonic() + self._seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        left = self._deadline - time.monotonic()
        before = self.sock.gettimeout()
        self._is_over = self._is_over or left <= 0
        if self._is_over:  # for good: what comes later is the rest of a request that was given up
            return b""
        self.sock.settimeout(left if before is None else min(left, before))
        try:
            read: bytes = super().chunk(size_hint)
        except TimeoutError:
            self._is_over = True
            return b""
        finally:
            self.sock.settimeout(before)
        return read


class _Connection(TConn):  # type: ignore[misc]
    def __init__(self, *args: Any, seconds: float) -> None:
        super().__init__(*args)
        self._seconds = seconds

    def init(self) -> None:
        if self.initialized:
            self.parser.unreader.begin_request()
            return
        super().init()
        self.parser.unreader = PatientUnreader(self.sock, self._seconds)


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """`request_seconds` is set by gunicorn.conf.py."""

    request_seconds = 15.0

    def accept(self, listener: Any) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK}:
                raise
            return
        self.nr_conns += 1
        connection = _Connection(self.cfg, client, address, listener.getsockname(), seconds=self.request_seconds)
        connection.set_timeout()
        self.pending_conns.append(connection)
        readable = partial(self.on_pending_socket_readable, connection)
        self.poller.register(connection.sock, selectors.EVENT_READ, readable)
