"""Senders that never come to an end, against the real gunicorn with very few threads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support import databases
from tests.support.harness import WEBHOOK_SECRET, event
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

THREADS = 3
HEAD = "POST /dnsimple/events/wrong HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def web(tmp_path: Path, simulator: Simulator) -> Iterator[Stack]:
    """A web server of three threads that wait one second for a request."""
    url = databases.new_sqlite_database(tmp_path)
    stack = Stack(url, tmp_path, simulator, web_threads=THREADS, request_read_timeout_seconds=1)
    try:
        stack.start_web()
        wait_until(lambda: answers(stack), "listening", 60)
        yield stack
    finally:
        stack.stop()


def answers(stack: Stack) -> bool:
    try:
        return requests.get(f"{stack.url}/healthz", timeout=30).status_code == 200
    except requests.ConnectionError:
        return False


def connect(stack: Stack, stay: ExitStack, text: str) -> socket.socket:
    connection = stay.enter_context(socket.create_connection(("127.0.0.1", stack.port), timeout=30))
    connection.sendall(text.encode())
    return connection


def test_silent_connections_hold_no_thread(web: Stack) -> None:
    with ExitStack() as stay:
        for _ in range(THREADS * 10):
            connect(web, stay, "")
        # gunicorn's own worker would wait five seconds for each of them, three at a time: fifty in all.
        posted = requests.post(f"{web.url}/dnsimple/events/{WEBHOOK_SECRET}", json=event(1, 2), timeout=30)
        assert posted.status_code == 200


@pytest.mark.parametrize(
    "started", [HEAD, f"{HEAD.replace('wrong', WEBHOOK_SECRET)}Content-Length: 100\r\n\r\n{{"], ids=["head", "body"]
)
def test_a_request_that_never_ends_is_cut_off_and_others_are_served(web: Stack, started: str) -> None:
    with ExitStack() as stay:
        slow = [connect(web, stay, started) for _ in range(THREADS * 2)]
        assert answers(web)
        for connection in slow:
            while connection.recv(4096):  # an answer of 400 or nothing, and then the end
                pass


def test_a_request_that_trickles_in_is_cut_off(web: Stack) -> None:
    with ExitStack() as stay:
        slow = connect(web, stay, HEAD)
        slow.settimeout(0.05)
        for _ in range(1000):
            try:
                slow.sendall(b"X: y\r\n")
                if not slow.recv(4096):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("still open after a thousand pieces")


def test_bytes_after_a_cut_off_request_are_not_parsed_as_a_request(web: Stack) -> None:
    """The rest of a body that was cut off must not be read as the next request (request smuggling)."""
    with ExitStack() as stay:
        slow = connect(web, stay, f"{HEAD}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{")
        first = slow.recv(65536)  # the wrong secret is answered before the body has come
        assert b" 404 " in first.splitlines()[0]
        received = b""
        try:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
            while piece := slow.recv(65536):
                received += piece
        except ConnectionError:
            pass
        assert b" 200 " not in received


def test_idle_keep_alive_connections_block_no_other_client(web: Stack) -> None:
    with ExitStack() as stay:
        for _ in range(20):
            connect(web, stay, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        # gunicorn's own worker would stand still for two seconds for each of them: forty in all.
        assert answers(web)


def test_a_connection_is_kept_for_the_next_request(web: Stack) -> None:
    with ExitStack() as stay:
        kept = connect(web, stay, "")
        for _ in range(3):
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            received = b""
            while b'"ok"' not in received:
                received += kept.recv(65536)
            assert b" 200 " in received.splitlines()[0]


def test_too_many_and_too_long_headers_are_refused(web: Stack) -> None:
    with ExitStack() as stay:
        for text in ("X: y\r\n" * 60, f"X: {'y' * 5000}\r\n"):
            refused = connect(web, stay, f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n{text}\r\n")
            assert refused.recv(65536).split()[1] in {b"400", b"431"}
        long = connect(web, stay, f"GET /{'y' * 5000} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert long.recv(65536).split()[1] in {b"400", b"414"}
