"""A receiver of webhooks as its own process: verifies with the published library, answers as configured.

`python -m tests.support.webhook_receiver SECRET [CERTIFICATE KEY]` prints its port. Messages go to `/`; its answers are
set by POST `/_answers`, what it received by GET `/_received`.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

_lock = threading.Lock()
_received: list[dict[str, Any]] = []
_answers: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/_answers":
            with _lock:
                _answers.extend(json.loads(body))
            self._answer(200)
            return
        found = {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}}
        try:
            found["message"] = Webhook(sys.argv[1]).verify(body, dict(self.headers))
            status = 204
        except WebhookVerificationError:
            status = 401
        with _lock:
            _received.append(found | {"body": body.decode()})
            answer = _answers.pop(0) if _answers else {}
        if answer.get("hang"):
            threading.Event().wait()
        while answer.get("drip"):  # a header that never ends
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ." if answer.pop("first", True) else b".")
            threading.Event().wait(0.02)
        self._answer(answer.get("status", status), answer.get("headers", {}), answer.get("body", ""))

    def do_GET(self) -> None:
        with _lock:
            self._answer(200, {}, json.dumps(_received))

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Tests read what was received."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A sender that was killed or timed out is not an error."""


class Receiver:
    """The receiver's process, used from a test."""

    def __init__(self, process: subprocess.Popen[str], scheme: str, verify: str | bool) -> None:
        assert process.stdout is not None
        self.process = process
        self.port = int(process.stdout.readline())
        self.url = f"{scheme}://localhost:{self.port}"
        self._session = requests.Session()
        self._session.trust_env, self._session.verify = False, verify

    def close(self) -> None:
        """Close the connections to it."""
        self._session.close()

    def will_answer(self, *answers: dict[str, Any]) -> None:
        """Set the answers to the next messages: `status`, `headers`, `body`, `hang`, `drip`."""
        self._session.post(f"{self.url}/_answers", json=answers, timeout=10).raise_for_status()

    def received(self) -> list[dict[str, Any]]:
        """`path`, `headers`, `body`, and `message` if its signature was good; oldest first."""
        found: list[dict[str, Any]] = self._session.get(f"{self.url}/_received", timeout=10).json()
        return found


class Inbox:
    """The receiver, and the messages that it received since this test began."""

    def __init__(self, process: Receiver) -> None:
        self.process = process
        self._before = len(process.received())

    def messages(self) -> list[dict[str, Any]]:
        return self.process.received()[self._before :]


@contextmanager
def receiver(secret: str, *tls: Path, verify: str | bool = True) -> Iterator[Receiver]:
    """A running receiver; https with a certificate's and a key's file."""
    command = [sys.executable, "-m", "tests.support.webhook_receiver", secret, *map(str, tls)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        found = Receiver(process, "https" if tls else "http", verify)
        try:
            yield found
        finally:
            process.kill()
            found.close()


def write_secret(file: Path, text: str) -> Path:
    file.touch(mode=0o600)
    file.write_text(text + "\n")
    return file


def main() -> None:
    """Serve until killed."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
