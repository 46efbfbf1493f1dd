"""One POST to one checked address, within one time limit.

Uses the standard library's client, which takes a connection to the address that was checked: a name that resolves to
another address a moment later changes nothing, and TLS still verifies the name. It uses no proxies, follows no
redirects and keeps no cookies.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from app.destinations.base import DestinationRefusedError, DestinationUnavailableError

_CONNECT_SECONDS = 10.0
_MAX_RESPONSE_BYTES = 65_536
_MAX_REASON = 300
_NAT64 = IPv6Network("64:ff9b::/96")

type Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The receiver's response: its status and its `Retry-After` header, unparsed."""

    status: int
    retry_after: str | None


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order of preference. Raises `OSError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one that is too long
        raise OSError("no such name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Poster:
    """Posts to one URL. `tls` verifies its host's name; `resolver` is for tests."""

    url: str
    tls: ssl.SSLContext
    allow_private: bool
    resolver: Resolve = resolve

    @property
    def host(self) -> str:
        """For messages: the path may contain a secret."""
        return urlsplit(self.url).netloc

    def post(self, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
        """The response, whatever its status.

        Raises `DestinationUnavailableError` if there is none in time, `DestinationRefusedError` for a private address.
        """
        parts, deadline = urlsplit(self.url), time.monotonic() + seconds
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            with self._connected(deadline) as connection:
                connection.request("POST", target, body, {"Host": parts.netloc, **headers})
                response = connection.getresponse()
                if time.monotonic() >= deadline:  # truncated headers look like complete ones
                    raise TimeoutError
                with suppress(OSError, http.client.HTTPException):  # only to be polite: the status is all that matters
                    response.read(_MAX_RESPONSE_BYTES)
                return Answer(response.status, response.headers.get("Retry-After"))
        except ssl.SSLCertVerificationError as error:
            raise DestinationUnavailableError(
                f"{self.host}: its TLS certificate is not trusted ({error.verify_message}); renew it there, or set "
                "ca_bundle to its certification authority"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            late = time.monotonic() >= deadline
            reason = "no complete response in time (timeout_seconds)" if late else _reason(error)
            raise DestinationUnavailableError(f"{self.host}: {reason}") from None

    @contextmanager
    def _connected(self, deadline: float) -> Iterator[http.client.HTTPConnection]:
        """A connection that is closed at the deadline, also if the receiver sends a byte now and then."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        connected = self._connect(host, parts.port or (443 if parts.scheme == "https" else 80), deadline)
        if parts.scheme == "https":
            connected = self.tls.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        # With the plain socket's method: the TLS one is not safe while another thread reads.
        left = max(0.0, deadline - time.monotonic())
        timer = threading.Timer(left, lambda: _shut_down(connected))
        timer.daemon = True
        timer.start()
        try:
            if isinstance(connected, ssl.SSLSocket):
                connected.do_handshake()
            with closing(http.client.HTTPConnection(host)) as connection:
                connection.sock = connected
                yield connection
        finally:
            timer.cancel()
            connected.close()

    def _connect(self, host: str, port: int, deadline: float) -> socket.socket:
        addresses = self.resolver(host, port)
        allowed = [address for address in addresses if self.allow_private or is_public(address)]
        if not allowed:
            raise DestinationRefusedError(
                f"{self.host} is at a private, loopback or link-local address ({', '.join(addresses)}); if the "
                "receiver is there, set allow_private = true"
            )
        failure: OSError | None = None
        for address in allowed:
            try:
                seconds = min(_CONNECT_SECONDS, max(0.001, deadline - time.monotonic()))
                connected = socket.create_connection((address, port), timeout=seconds)
            except OSError as error:
                failure = error
            else:
                connected.settimeout(max(0.001, deadline - time.monotonic()))
                return connected
        raise failure or OSError("the name has no address")


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):  # closed already
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    # It may contain what the receiver sent: no control characters, which terminals interpret and PostgreSQL rejects.
    return "".join(letter if letter.isprintable() else "?" for letter in said)[:_MAX_REASON]


def is_public(address: str) -> bool:
    """Whether an address is public, also if it embeds an IPv4 address."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
