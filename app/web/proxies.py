"""What a proxy says of a request, believed only from the networks of TRUSTED_PROXIES.

`X-Forwarded-*` is text that anybody can send. A request's sender is the peer of its connection; if that is a trusted
proxy, the last address that `X-Forwarded-For` names and that is no trusted proxy itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from flask import Request

from app.web.context import services

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network


def client_address(request: Request) -> str:
    """The address that this request came from, as text; empty when the connection has none (a socket file)."""
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
            break  # the trusted proxy said nothing that we understand: it is as far as we can see
        client = before
    return str(client)


def is_from_proxy(request: Request) -> bool:
    """Whether the peer of the connection is a trusted proxy."""
    peer = _parse(request.remote_addr or "")
    return peer is not None and _is_in(peer, services().settings.trusted_proxies)


def asked_host(request: Request) -> str:
    """The host (and port) that the client wrote, as the trusted proxy tells it, else as the request does."""
    forwarded = request.headers.get("X-Forwarded-Host", "").rpartition(",")[2].strip()
    return forwarded if forwarded and is_from_proxy(request) else request.headers.get("Host", "")


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _parse(text: str) -> Address | None:
    """An address with or without a port; `::ffff:192.0.2.1` is the IPv4 address that it means."""
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
