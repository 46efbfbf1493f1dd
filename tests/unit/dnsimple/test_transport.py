"""The adapter against real sockets: threads, time limits, broken connections, forks."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dnsimple as client_library
import pytest

from app.dnsimple import errors
from app.dnsimple.adapter import Deadline, DNSimple
from app.errors import OutcomeUnknownError, RetryableError
from tests.support.x509 import Authority
from tests.support.x509 import pem as as_pem


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1  # type: ignore[attr-defined]

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.server.requests.append((self.command, self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.server.behave(self)  # type: ignore[attr-defined]

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815, the names that the server calls

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Counts connections, keeps requests, behaves as configured."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.connections = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.behave: Callable[[Handler], None] = send_key
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some of these tests are about."""


def send(handler: Handler, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def send_key(handler: Handler) -> None:
    """Each certificate's own key, with all headers that the client library insists on."""
    number = re.search(r"/certificates/(\d+)/", handler.path)
    key = f"KEY-{number[1] if number else 0}-"
    limits = {f"X-RateLimit-{name}": "1" for name in ("Limit", "Remaining", "Reset")}
    send(handler, json.dumps({"data": {"private_key": key}}).encode(), headers=limits)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def make(server: Server, **more: Any) -> DNSimple:
    return DNSimple(account_id=1010, token="secret-token", base_url=server.url, **more)


# Answers never mix


type Fetch = Callable[[int], Callable[[], str]]  # an answer is fetched first, and read later


def by_the_adapter(server: Server) -> Fetch:
    dnsimple = make(server, pool_size=32)

    def fetch(number: int) -> Callable[[], str]:
        key = dnsimple.private_key("example.com", number)
        return key.reveal

    return fetch


def by_the_librarys_own_response(server: Server) -> Fetch:
    local = threading.local()

    def fetch(number: int) -> Callable[[], str]:
        if not hasattr(local, "client"):
            local.client = client_library.Client(access_token="x", base_url=server.url)
        answer = local.client.certificates.get_certificate_private_key(1010, "example.com", number)
        return lambda: str(answer.data.private_key)

    return fetch


def mixed_up(fetch: Fetch, *, rounds: int = 40, threads: int = 32) -> int:
    """How many keys are another certificate's. In each round, no thread reads before all answers have arrived."""
    everybody = threading.Barrier(threads)

    def fetch_and_read(number: int) -> str:
        read = fetch(number)
        everybody.wait(60)
        return read()

    with ThreadPoolExecutor(threads) as pool:
        keys = list(pool.map(fetch_and_read, range(1, rounds * threads + 1)))
    return sum(key != f"KEY-{number}-" for number, key in enumerate(keys, 1))


def test_no_thread_sees_the_response_of_another(server: Server) -> None:
    assert mixed_up(by_the_adapter(server)) == 0


def test_the_same_test_finds_the_fault_in_the_librarys_own_response(server: Server) -> None:
    """So the test above can fail: this is what it would find if the adapter used the library's services."""
    assert mixed_up(by_the_librarys_own_response(server)) > 0


def test_connections_are_reused(server: Server) -> None:
    fetch = by_the_adapter(server)
    mixed_up(fetch, rounds=40, threads=8)
    assert len(server.requests) == 320
    assert server.connections <= 16


def test_a_forked_process_opens_its_own_connections(server: Server) -> None:
    dnsimple = make(server)
    dnsimple.private_key("example.com", 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, dnsimple.private_key("example.com", 2).reveal().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"KEY-2-"
    os.close(reader)
    os.close(writer)
    assert dnsimple.private_key("example.com", 3).reveal() == "KEY-3-"
    assert server.connections == 2


# Time limits


def wait_forever(handler: Handler) -> None:
    handler.server.released.wait(30)  # type: ignore[attr-defined]


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.released.wait(0.02):  # type: ignore[attr-defined]
        handler.wfile.write(b" ")
        handler.wfile.flush()


@pytest.mark.parametrize("behaviour", [wait_forever, drip])
def test_a_call_ends_at_its_deadline(server: Server, behaviour: Callable[[Handler], None]) -> None:
    server.behave = behaviour
    dnsimple = make(server)
    for call, kind in (
        (dnsimple.private_key, RetryableError),
        (dnsimple.issue, OutcomeUnknownError),
    ):
        deadline = Deadline.after(0.3)
        with pytest.raises(kind):
            call("example.com", 1, deadline=deadline)
        assert deadline.remaining() == 0


def test_a_server_that_sends_nothing_is_abandoned_after_the_read_timeout(server: Server) -> None:
    server.behave = wait_forever
    with pytest.raises(errors.UnreachableError):
        make(server, read_timeout=0.2).private_key("example.com", 1)


def test_nothing_is_sent_after_the_deadline(server: Server) -> None:
    with pytest.raises(errors.UnreachableError, match="not sent"):
        make(server).issue("example.com", 1, deadline=Deadline.after(0))
    assert server.requests == []


# Broken connections


def abort(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def truncate(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": {"private_key": "K')
    handler.close_connection = True


@pytest.mark.parametrize("behaviour", [abort, truncate])
def test_after_a_broken_connection_an_orders_outcome_is_unknown(
    server: Server, behaviour: Callable[[Handler], None]
) -> None:
    server.behave = behaviour
    with pytest.raises(RetryableError):
        make(server).private_key("example.com", 1)
    with pytest.raises(OutcomeUnknownError):
        make(server).issue("example.com", 1)


def test_a_refused_connection_means_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    dnsimple = DNSimple(account_id=1, token="x", base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(errors.UnreachableError):
        dnsimple.issue("example.com", 1)


def test_an_unknown_host_means_nothing_was_sent() -> None:
    with pytest.raises(errors.UnreachableError):
        DNSimple(account_id=1, token="x", base_url="http://nowhere.invalid").issue("example.com", 1)


def test_an_untrusted_authority_is_never_sent_anything(server: Server, tmp_path: Path) -> None:
    authority = Authority()
    issued = authority.issue("localhost")
    pem = tmp_path / "server.pem"
    pem.write_text(issued.key + issued.leaf + "".join(issued.chain))
    root = tmp_path / "root.pem"
    root.write_text(as_pem(authority.root))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_address[1]}"
    server.behave = lambda handler: send(handler, b"{}", 404)
    with pytest.raises(errors.UnreachableError):
        DNSimple(account_id=1, token="x", base_url=url).issue("example.com", 1)
    assert server.requests == []
    with pytest.raises(errors.NotFoundError):
        DNSimple(account_id=1, token="x", base_url=url, ca_bundle=str(root)).issue("example.com", 1)


def speak_tls(server: Server, folder: Path, authority: Authority, *names: str, days: float = 90) -> str:
    """Let the server have a certificate of this authority. Its URL."""
    issued = authority.issue(*names, days=days)
    pem = folder / "server.pem"
    pem.write_text(issued.key + issued.leaf + "".join(issued.chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.behave = lambda handler: send(handler, b"{}", 404)
    return f"https://localhost:{server.server_address[1]}"


@pytest.mark.parametrize(("names", "days"), [(("other.example",), 90), (("localhost",), 0.01)], ids=["host", "expired"])
def test_the_servers_certificate_must_match_the_host(
    server: Server, tmp_path: Path, names: tuple[str, ...], days: float
) -> None:
    """And valid at this moment, though its authority is the one that we believe."""
    authority = Authority()
    url = speak_tls(server, tmp_path, authority, *names, days=days)
    bundle = tmp_path / "root.pem"
    bundle.write_text(as_pem(authority.root))
    with pytest.raises(errors.UnreachableError):
        DNSimple(account_id=1, token="x", base_url=url, ca_bundle=str(bundle)).private_key("example.com", 1)
    assert server.requests == []


def test_the_environment_cannot_switch_verification_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor bring in an authority: DNSIMPLE_CA_BUNDLE is the only place for one."""
    authority = Authority()
    url = speak_tls(server, tmp_path, authority, "localhost")
    bundle = tmp_path / "root.pem"
    bundle.write_text(as_pem(authority.root))
    for value in (str(bundle), ""):
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
        with pytest.raises(errors.UnreachableError):
            DNSimple(account_id=1, token="x", base_url=url).private_key("example.com", 1)
    assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_with_our_token(server: Server, status: int) -> None:
    other = Server()
    thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        server.behave = lambda handler: send(handler, b"", status, {"Location": f"{other.url}/v2/x"})
        with pytest.raises(RetryableError):
            make(server).private_key("example.com", 1)
        with pytest.raises(OutcomeUnknownError):
            make(server).issue("example.com", 1)
        assert other.requests == []
        assert len(server.requests) == 2
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


def test_an_endless_body_is_not_read_to_its_end(server: Server) -> None:
    server.behave = lambda handler: send(handler, b" " * 3_000_000)
    with pytest.raises(errors.ServerFaultError):
        make(server).private_key("example.com", 1)


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert make(server).private_key("example.com", 1).reveal() == "KEY-1-"
