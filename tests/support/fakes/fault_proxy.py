"""An HTTP proxy that injects faults: it counts calls, holds one, loses an answer, closes, or answers itself."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

_NOT_FORWARDED = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class FaultProxy:
    """`with FaultProxy(url) as proxy:`, then talk to `proxy.url`."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._hold_at: int | None = None
        self._lose_at: int | None = None
        self._answers: list[tuple[int, bytes, dict[str, str]]] = []
        self._before: list[tuple[str, Callable[[], Any]]] = []
        self.calls: list[str] = []
        self.held = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.close()

    def open(self) -> None:
        """Listen; on the same port as before."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    proxy._pass(self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """As if the server were down: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hold_after(self, calls: int) -> None:
        """Let so many calls pass, then hold the next one and set `held`."""
        self._released.clear()
        self.held.clear()
        self._hold_at = len(self.calls) + calls

    def release(self) -> None:
        """Forget the held call: its client has been killed."""
        self._hold_at = None
        self._released.set()

    def lose_answer_after(self, calls: int) -> None:
        """Let so many calls pass, then carry the next one out without giving its answer back."""
        self._lose_at = len(self.calls) + calls

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer the next call here."""
        self._answers.append((status, body, headers or {}))

    def before_call(self, name: str, action: Callable[[], Any]) -> None:
        """Do something else just before the next call with this in its name is carried out."""
        self._before.append((name, action))

    def _pass(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            number = len(self.calls)
            self.calls.append(f"{request.command} {request.headers.get('X-Amz-Target') or request.path}")
            own = self._answers.pop(0) if self._answers else None
            due = [found for found in self._before if found[0] in self.calls[-1]]
            self._before = [found for found in self._before if found not in due]
        for _, action in due:
            action()
        if number == self._hold_at:
            self.held.set()
            self._released.wait()
            return
        status, content, headers = own or self._forward(request, body)
        if number == self._lose_at:
            return
        try:
            request.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in _NOT_FORWARDED:
                    request.send_header(name, value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
        except ConnectionError:
            return

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=30)
        try:
            headers: dict[str, Any] = {
                name: value for name, value in request.headers.items() if name.lower() != "connection"
            }
            connection.request(request.command, request.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()
