"""Real TLS servers from Debian's packages, as our own child processes, and clients that never stop connecting."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

import pytest

from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, free_port, wait_until

LINEAGE = "www.customer.example"


class Server(Protocol):
    """A server that reads what a files destination writes, and is reloaded by a command destination."""

    port: int

    def destinations(self) -> str:
        """The destinations file."""

    def start(self) -> None:
        """Start serving; the first certificate is in place."""

    def stop(self) -> None:
        """Stop the server."""


class _Process:
    package = ""

    def __init__(self, folder: Path) -> None:
        if shutil.which(self.package, path="/usr/sbin:/usr/bin:/sbin") is None:
            pytest.skip(f"no {self.package}: install Debian's package `{self.package}`")
        self.folder = folder
        self.certificates = folder / "certificates"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str) -> None:
        with (self.folder / f"{self.package}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, f"{self.package} listens: {self.folder}/{self.package}.log")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / f"{self.package}.log").read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Stop the server."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


class Nginx(_Process):
    """One server block; reloaded by `nginx -s reload`, which finds the process by its own pid file."""

    package = "nginx"

    def destinations(self) -> str:
        """Separate files, then the reload."""
        command = ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-s", "reload"]
        return _destinations(self.certificates, "separate", command)

    def start(self) -> None:
        """In the foreground, with nothing of the system's."""
        temporary = " ".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"""
            daemon off; worker_processes 2; pid {self.folder}/nginx.pid; error_log {self.folder}/nginx-error.log;
            events {{ worker_connections 512; }}
            http {{
                access_log off; {temporary}
                server {{
                    listen 127.0.0.1:{self.port} ssl; server_name {LINEAGE};
                    ssl_certificate {self.certificates}/{LINEAGE}/fullchain.pem;
                    ssl_certificate_key {self.certificates}/{LINEAGE}/privkey.pem;
                    location / {{ return 200 "served"; }}
                }}
            }}
            """
        )
        self._run("nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"))


class HAProxy(_Process):
    """One frontend that reads the whole folder; reloaded by SIGUSR2 to its master."""

    package = "haproxy"

    def destinations(self) -> str:
        """Combined files, then the reload."""
        return _destinations(self.certificates, "haproxy", ["pkill", "-USR2", "-F", str(self.folder / "haproxy.pid")])

    def start(self) -> None:
        """Master and worker, in the foreground."""
        (self.folder / "haproxy.cfg").write_text(
            f"""
global
    stats socket {self.folder}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
frontend tls
    bind 127.0.0.1:{self.port} ssl crt {self.certificates}
    http-request return status 200 content-type text/plain string served
"""
        )
        self._run("haproxy", "-W", "-f", str(self.folder / "haproxy.cfg"), "-p", str(self.folder / "haproxy.pid"))


class Caddy(_Process):
    """Reads the whole folder, in and below it; its reload is forced, because its configuration stays the same."""

    package = "caddy"

    def destinations(self) -> str:
        """Combined files, then the reload."""
        self._admin = f"127.0.0.1:{free_port()}"
        file = str(self.folder / "caddy.json")
        return _destinations(
            self.certificates, "haproxy", ["caddy", "reload", "--config", file, "--address", self._admin, "--force"]
        )

    def start(self) -> None:
        """Without certificates managed by Caddy."""
        server = {
            "listen": [f"127.0.0.1:{self.port}"],
            "automatic_https": {"disable": True},
            "tls_connection_policies": [{}],
            "routes": [{"handle": [{"handler": "static_response", "body": "served"}]}],
        }
        configuration = {
            "admin": {"listen": self._admin, "config": {"persist": False}},
            "apps": {
                "http": {"servers": {"tls": server}},
                "tls": {"certificates": {"load_folders": [str(self.certificates)]}},
            },
        }
        (self.folder / "caddy.json").write_text(json.dumps(configuration))
        self._run("caddy", "run", "--config", str(self.folder / "caddy.json"))


def _destinations(certificates: Path, layout: str, command: list[str]) -> str:
    # A short pause: each renewal finds the reload free, as it does when renewals are days apart.
    return f"""
[[destination]]
name = "web"
kind = "files"
path = "{certificates}"
layout = "{layout}"

[[destination]]
name = "reload"
kind = "command"
command = {command}
after = "web"
min_interval_seconds = 0.2
"""


@dataclass
class Clients:
    """Threads that connect, shake hands, ask and read, again and again, each time with a new connection."""

    port: int
    root_pem: str
    threads: int = 4
    failures: list[str] = field(default_factory=list)
    seen: list[tuple[float, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._context = ssl.create_default_context(cadata=self.root_pem)
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the simulator's issuer names no authority key
        self._stop = threading.Event()
        self._running = [threading.Thread(target=self._connect) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()

    def first_seen(self, fingerprint: str) -> float | None:
        """When this certificate was served first, in seconds since the epoch."""
        return next((at for at, seen in list(self.seen) if seen == fingerprint), None)

    def _connect(self) -> None:
        while not self._stop.is_set():
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.port), 10) as plain,
                    self._context.wrap_socket(plain, server_hostname=LINEAGE) as tls,
                ):
                    fingerprint = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
                    tls.sendall(f"GET / HTTP/1.1\r\nHost: {LINEAGE}\r\nConnection: close\r\n\r\n".encode())
                    answer = b"".join(iter(lambda: tls.recv(4096), b""))
                    assert answer.endswith(b"served"), answer
                    self.seen.append((time.time(), fingerprint))
            except (OSError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Renewals:
    """The results. Times in seconds, from the event's commit to the first handshake with the new one."""

    handshakes: int
    failures: list[str]
    event_to_served: list[float]
    handshakes_of_old_after_new: int


def renew_under_load(server: Server, stack: Stack, simulator: Simulator, renewals: int) -> Renewals:
    """Order a certificate, serve it, and renew it this number of times while clients keep connecting.

    `stack` is not started yet; its destinations file is the server's.
    """
    stack.start()
    simulator.wait_for_webhooks(1)
    certificate_id = int(stack.order("customer.example")["certificate_id"])
    # With no server running yet, the first delivery to `reload` may fail; it is retried like any other.
    wait_until(lambda: _state(stack, certificate_id, "web") == "delivered", "the first files")
    server.start()
    first = stack.wait_delivered(certificate_id, 60)
    times, late = [], 0
    with Clients(server.port, simulator.root_pem()) as clients:
        wait_until(lambda: clients.seen or clients.failures, "the first handshake")
        assert not clients.failures, clients.failures[0]
        assert clients.first_seen(first["fingerprint_sha256"])
        for _ in range(renewals):
            certificate_id = simulator.renew(certificate_id)
            renewed = stack.wait_delivered(certificate_id)
            fingerprint = renewed["fingerprint_sha256"]
            served = wait_until(lambda: clients.first_seen(fingerprint), "the renewed certificate served")  # noqa: B023
            assert served is not None
            timeline = {line["step"]: datetime.fromisoformat(line["at"]) for line in renewed["timeline"]}
            times.append(served - timeline["event received"].timestamp())
            wanted = len(clients.seen) + 50
            wait_until(lambda: len(clients.seen) >= wanted, "50 more handshakes")  # noqa: B023
            late += sum(seen != fingerprint for at, seen in list(clients.seen) if at > served)
        handshakes, failures = len(clients.seen) + len(clients.failures), list(clients.failures)
    return Renewals(handshakes, failures, times, late)


def _state(stack: Stack, certificate_id: int, destination: str) -> str:
    found = stack.get(f"/certificates/{certificate_id}")
    states = {d["destination"]: d["state"] for d in found["deliveries"]} if found else {}
    return str(states.get(destination, ""))
