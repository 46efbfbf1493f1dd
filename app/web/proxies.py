"""Forwarded headers, trusted only from the networks of TRUSTED_PROXIES.

Any client can send `X-Forwarded-*`. A request's sender is the peer of its connection, or if that is a trusted proxy,
the last address in `X-Forwarded-For` that is not a trusted proxy itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from flask import Request

from app.web.context import services
from config import Network

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

type Address = IPv4Address | IPv6Address


def client_address(request: Request) -> str:
    """The address that sent this request, as text; empty if the connection has none (a Unix socket)."""
    peer = _parse(request.remote_addr or "")
    if peer is None:
        return ""
    trusted = services().settings.trusted_proxies
    client = peer
    for hop in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        if not _is_in(client, trusted):
            break
        before = _parse(hop)
        if before is None:
            break  # not an address: the trusted proxy is the last known hop
        client = before
    return str(client)


def is_from_proxy(request: Request) -> bool:
    """Whether the peer of the connection is a trusted proxy."""
    return _is_trusted(request.remote_addr, services().settings.trusted_proxies)


class TrustedProxyMiddleware:
    """Pass on the host and scheme that a trusted proxy was addressed with."""

    def __init__(self, application: WSGIApplication, trusted: Sequence[Network]) -> None:
        self._application = application
        self._trusted = trusted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _is_trusted(environ.get("REMOTE_ADDR"), self._trusted):
            if host := _last(environ.get("HTTP_X_FORWARDED_HOST", "")):
                environ["HTTP_HOST"] = host
            if (scheme := _last(environ.get("HTTP_X_FORWARDED_PROTO", ""))) in {"http", "https"}:
                environ["wsgi.url_scheme"] = scheme
        return self._application(environ, start_response)


def _is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    address = _parse(peer or "")
    return address is not None and _is_in(address, trusted)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _last(values: str) -> str:
    """The value that the nearest proxy added; earlier ones are from further away."""
    return values.rpartition(",")[2].strip()


def _parse(text: str) -> Address | None:
    """An address with or without a port; `::ffff:192.0.2.1` is converted to IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
