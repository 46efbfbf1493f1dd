"""A simulator for each test, and somebody who hears its webhooks."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.simulator_process import Simulator


class Receiver:
    """An endpoint for webhooks: `statuses` are given out in turn, the last one for ever."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[dict[str, str], str]] = queue.Queue()
        self.statuses = [200]
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                receiver.events.put(({name.lower(): value for name, value in self.headers.items()}, body))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def next(self, name: str = "certificate.issue") -> dict[str, Any]:
        """The next event of this name; others are dropped."""
        while True:
            _, body = self.events.get(timeout=10)
            event: dict[str, Any] = json.loads(body)
            if event["name"] == name:
                return event

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """Options by `@pytest.mark.parametrize("simulator", [{...}], indirect=True)`."""
    options = {"domain": ["example.com", "other.example"], "issue_delay": 0.05, "allow_http_webhooks": True}
    simulator = Simulator(**(options | getattr(request, "param", {}))).start()
    yield simulator
    simulator.kill()  # a graceful stop takes a second; how it stops has tests of its own
