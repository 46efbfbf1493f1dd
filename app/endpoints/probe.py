"""Which certificate does a server send? Every address of an endpoint is asked; nothing is sent but a handshake."""

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
from app.endpoints.starttls import BEGIN, TLSRefusedError, Wire

_MOST_ADDRESSES = 16
_NO_NETWORK = {errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one address answered: the leaf as DER, or why there is none."""

    address: str
    leaf: bytes | None
    problem: str | None = None


class Probes:
    """Shared by all threads of a process: only some of a worker's threads look at endpoints at a time."""

    def __init__(self, places: int = 1) -> None:
        self._places = threading.BoundedSemaphore(places)

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Whether there was a place; it is ours within the block."""
        free = self._places.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._places.release()

    def look(self, endpoint: Endpoint, common_names: Sequence[str]) -> list[list[ProbeResult]]:
        """What the endpoint serves for each of these certificates. Raises nothing for what a server does."""
        if not common_names:
            return []
        with ThreadPoolExecutor(min(endpoint.at_once, len(common_names)), thread_name_prefix="probe") as pool:
            return list(pool.map(lambda name: look(endpoint, name), common_names))


def look(endpoint: Endpoint, common_name: str) -> list[ProbeResult]:
    """Ask every address of the endpoint for this certificate."""
    host, port = endpoint.host_and_port(common_name)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [ProbeResult(shown, None, f"{host} has no address: {_reason(error)}")]
    places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))[:_MOST_ADDRESSES]
    seen = [_ask(endpoint, family, address, endpoint.name_to_ask_for(common_name)) for family, address in places]
    # A host without IPv6 cannot reach the IPv6 address of one that has both: no fault of the endpoint's.
    return [one for one in seen if one is not None] or [
        ProbeResult(shown, None, f"{host} is in no network of this host")
    ]


def _ask(endpoint: Endpoint, family: int, address: tuple[object, ...], server_name: str) -> ProbeResult | None:
    shown = f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
    limit = time.monotonic() + endpoint.timeout_seconds
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connecting:
            wire = Wire(connecting, limit)
            wire.hurry()
            connecting.connect(address)
            if endpoint.starttls is not None:
                BEGIN[endpoint.starttls](wire)
            wire.hurry()
            with _context().wrap_socket(connecting, server_hostname=server_name) as connected:
                return ProbeResult(shown, connected.getpeercert(binary_form=True), None)
    except TimeoutError:
        return ProbeResult(shown, None, f"no answer within {endpoint.timeout_seconds:g} seconds (timeout_seconds)")
    except (OSError, TLSRefusedError) as error:
        if isinstance(error, OSError) and error.errno in _NO_NETWORK:
            return None
        return ProbeResult(shown, None, _reason(error))


def _context() -> ssl.SSLContext:
    """Takes whatever certificate is served: it is compared with ours, not believed."""
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
