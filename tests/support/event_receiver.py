"""An endpoint that receives the simulator's webhooks."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EventReceiver:
    """An endpoint for webhooks: it answers with `statuses` in turn, and from then on with the last one."""

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

    def forget(self) -> None:
        """Drop the events received so far."""
        with self.events.mutex:
            self.events.queue.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
