"""Probes of the certificate that a TLS server sends: a handshake with every address of an endpoint."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from app.endpoints.registry import Endpoint
from app.endpoints.starttls import STARTTLS, TLSRefusedError, Wire

_MAX_ADDRESSES = 16
_NO_NETWORK = {errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The leaf that one address sent, as DER, or the error."""

    address: str
    leaf: bytes | None
    error: str | None = None


class Probes:
    """Shared by all threads of a process; limits how many of a worker's threads probe at the same time."""

    def __init__(self, slots: int = 1) -> None:
        self._slots = threading.BoundedSemaphore(slots)

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Whether a slot was free; if so, it is held within the block."""
        free = self._slots.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._slots.release()

    def probe(self, endpoint: Endpoint, common_names: Sequence[str]) -> list[list[ProbeResult]]:
        """The results for each common name. Never raises for what a server does."""
        if not common_names:
            return []
        with ThreadPoolExecutor(min(endpoint.max_concurrency, len(common_names)), thread_name_prefix="probe") as pool:
            return list(pool.map(lambda name: probe(endpoint, name), common_names))


def probe(endpoint: Endpoint, common_name: str) -> list[ProbeResult]:
    """Probe every address of the endpoint for the certificate of this common name."""
    host, port = endpoint.host_and_port(common_name)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [ProbeResult(shown, None, f"{host} has no address: {_reason(error)}")]
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))[:_MAX_ADDRESSES]
    server_name = endpoint.server_name(common_name)
    results = [_probe_address(endpoint, family, address, server_name) for family, address in addresses]
    # This host may have no IPv6, which is not the endpoint's fault: addresses without a route are left out.
    return [result for result in results if result is not None] or [
        ProbeResult(shown, None, f"no route from this host to {host}")
    ]


def _probe_address(
    endpoint: Endpoint, family: int, address: tuple[object, ...], server_name: str
) -> ProbeResult | None:
    shown = f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
    limit = time.monotonic() + endpoint.timeout_seconds
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connecting:
            wire = Wire(connecting, limit)
            wire.set_timeout()
            connecting.connect(address)
            if endpoint.starttls is not None:
                STARTTLS[endpoint.starttls](wire)
            wire.set_timeout()
            with _context().wrap_socket(connecting, server_hostname=server_name) as connected:
                return ProbeResult(shown, connected.getpeercert(binary_form=True), None)
    except TimeoutError:
        return ProbeResult(shown, None, f"no answer within {endpoint.timeout_seconds:g} seconds (timeout_seconds)")
    except (OSError, TLSRefusedError) as error:
        if isinstance(error, OSError) and error.errno in _NO_NETWORK:
            return None
        return ProbeResult(shown, None, _reason(error))


def _context() -> ssl.SSLContext:
    """Accepts any certificate: it is compared with the delivered one, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
