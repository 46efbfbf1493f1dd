"""Looking at servers: real mail and database servers by STARTTLS, and servers that do what they should not."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.endpoints.probe import ProbeResult, Probes, probe
from app.endpoints.registry import Endpoint
from tests.support.databases import new_postgres_server
from tests.support.dovecot import Dovecot
from tests.support.stack import free_port
from tests.support.x509 import Authority, Issued

ISSUED = Authority().issue("mail.example.com")
LEAF = x509.load_pem_x509_certificate(ISSUED.leaf.encode()).public_bytes(Encoding.DER)


def endpoint(port: int, **more: object) -> Endpoint:
    return Endpoint.model_validate({"name": "mail", "address": f"127.0.0.1:{port}", "timeout_seconds": 5, **more})


def seen(endpoint: Endpoint, common_name: str = "mail.example.com") -> ProbeResult:
    (result,) = probe(endpoint, common_name)
    return result


def server_context(issued: Issued, folder: Path) -> ssl.SSLContext:
    (folder / "certificate.pem").write_text(issued.leaf + "".join(issued.chain))
    (folder / "key.pem").write_text(issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


@contextmanager
def smtp(context: ssl.SSLContext | None) -> Iterator[int]:
    controller = Controller(Sink(), hostname="127.0.0.1", port=free_port(), tls_context=context)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@contextmanager
def saying(*answers: bytes) -> Iterator[int]:
    """A server that says one thing for each that it hears, the first at once, and then nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connected, _ = listening.accept()
            with connected, suppress(ConnectionError):  # the other side may have heard enough
                for number, answer in enumerate(answers):
                    if number:
                        connected.recv(1000)
                    connected.sendall(answer)
                connected.recv(1000)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_a_mail_server_is_asked_by_starttls_for_the_name(tmp_path: Path) -> None:
    context, asked = server_context(ISSUED, tmp_path), []

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        asked.append(name)

    context.sni_callback = note
    with smtp(context) as port:
        found = seen(endpoint(port, starttls="smtp"))
    assert (found.leaf, found.error) == (LEAF, None)
    assert asked == ["mail.example.com"]


def test_a_mail_server_without_starttls_says_so() -> None:
    with smtp(None) as port:
        assert seen(endpoint(port, starttls="smtp")).error == "the server does not offer STARTTLS"


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_dovecot_is_asked_by_starttls(protocol: str) -> None:
    with Dovecot(ISSUED) as dovecot:
        found = seen(endpoint(dovecot.ports[protocol], starttls=protocol))
    assert (found.leaf, found.error) == (LEAF, None)


def test_postgresql_is_asked_by_its_own_protocol() -> None:
    server = new_postgres_server()
    try:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        assert seen(endpoint(port, starttls="postgresql")).error == "the server does not support TLS (ssl = off)"
        server.stop()
        data = server._folder / "data"
        (data / "server.crt").write_text(ISSUED.leaf)
        (data / "server.key").write_text(ISSUED.key)
        (data / "server.key").chmod(0o600)
        if os.geteuid() == 0:
            os.chown(data / "server.key", pwd.getpwnam("postgres").pw_uid, -1)
        with (data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\n")
        server.start()
        assert seen(endpoint(port, starttls="postgresql")).leaf == LEAF
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("protocol", "answers", "problem"),
    [
        ("smtp", [b"554 go away\r\n"], "the server responded '554 go away'"),
        ("smtp", [b"220-a\r\n220 b\r\n", b"502 no\r\n"], "the server responded '502 no'"),
        (
            "smtp",
            [b"220 a\r\n", b"250-a\r\n250 STARTTLS\r\n", b"454 not now\r\n"],
            "the server responded '454 not now'",
        ),
        ("imap", [b"* BYE overloaded\r\n"], "the server responded '* BYE overloaded'"),
        ("imap", [b"* OK\r\n", b"* NOTE\r\nc1 BAD unknown\r\n"], "the server responded 'c1 BAD unknown'"),
        ("pop3", [b"+OK\r\n", b"-ERR unknown\r\n"], "the server responded '-ERR unknown'"),
        ("postgresql", [b"", b"H"], "it is not PostgreSQL"),
        ("smtp", [b"x" * 5000], "the server sent a line that is too long"),
        (None, [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], "no TLS: wrong version number"),
    ],
)
def test_a_server_that_begins_no_tls_is_quoted(protocol: str | None, answers: list[bytes], problem: str) -> None:
    with saying(*answers) as port:
        assert seen(endpoint(port, starttls=protocol)).error == problem


def test_a_server_that_is_silent_is_left_after_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for protocol in (None, "smtp"):
            found = seen(endpoint(port, starttls=protocol, timeout_seconds=0.2))
            assert found.error == "no answer within 0.2 seconds (timeout_seconds)"


def test_a_server_that_sends_a_byte_now_and_then_is_left_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        enough = threading.Event()

        def drip() -> None:
            connected, _ = listening.accept()
            with connected:
                while not enough.wait(0.02):
                    connected.sendall(b"2")

        thread = threading.Thread(target=drip)
        thread.start()
        found = seen(endpoint(listening.getsockname()[1], starttls="smtp", timeout_seconds=0.3))
        enough.set()
        thread.join()
    assert found.error == "no answer within 0.3 seconds (timeout_seconds)"


def test_a_host_that_has_no_address_is_named() -> None:
    (found,) = probe(Endpoint(name="web", address="{host}:443"), "nowhere.invalid")
    assert found.address == "nowhere.invalid:443"
    assert str(found.error).startswith("nowhere.invalid has no address")


def test_many_are_looked_at_in_their_order(tmp_path: Path) -> None:
    other = Authority().issue("other.example.com")
    context, second = server_context(ISSUED, tmp_path), tmp_path / "second"
    second.mkdir()
    other_context = server_context(other, second)

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name == "other.example.com":
            connection.context = other_context

    context.sni_callback = choose
    names = ["mail.example.com", "other.example.com"] * 4
    with smtp(context) as port:
        found = Probes().probe(endpoint(port, starttls="smtp"), names)
    assert [results[0].leaf == LEAF for results in found] == [True, False] * 4
