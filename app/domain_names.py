"""The names of an order: what a client may write, and which names the certificate will cover.

Rules of DNSimple's Let's Encrypt orders (contract, section 2.3): name `www` covers `www.D` and `D`, an empty name the
apex alone, `*` one level without the apex; alternate names are full host names inside the same domain; 100 at most.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import idna

from app.errors import PermanentError

MOST_NAMES = 100
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


class InvalidFieldError(PermanentError):
    """An invalid field of a request; `field` is its name in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A client's order as it was written. `signature_algorithm` is `ECDSA` or `RSA`."""

    domain: str
    name: str = "www"
    san: tuple[str, ...] = ()
    auto_renew: bool = True
    signature_algorithm: str = "ECDSA"


@dataclass(frozen=True, slots=True)
class OrderNames:
    """`san` are the alternate names to send to DNSimple; `names` all names that the certificate has to cover."""

    domain: str
    name: str
    common_name: str
    san: tuple[str, ...]
    names: tuple[str, ...]


def parse_domain(text: str) -> str:
    """A domain as lower-case A-labels (`bücher.example` becomes `xn--bcher-kva.example`).

    Raises `InvalidFieldError`.
    """
    host = _host("domain", text)
    labels = host.split(".")
    if len(labels) < 2:
        raise InvalidFieldError("domain", f"{text!r} has no top-level domain: use a domain such as example.com")
    if labels[-1].isdigit():
        raise InvalidFieldError("domain", f"{text!r} is an IP address, not a domain: use a domain such as example.com")
    return host


def resolve_names(domain_text: str, name_text: str, san_texts: Sequence[str]) -> OrderNames:
    """Validate and complete the names of an order. Raises `InvalidFieldError`, which names the field."""
    domain = parse_domain(domain_text)
    name = _relative_name(name_text, domain)
    common_name = f"{name}.{domain}" if name else domain
    implied = [common_name, domain] if name == "www" else [common_name]
    requested = dict.fromkeys(_full_name(text, domain) for text in san_texts)
    wildcards = [full for full in (*implied, *requested) if full.startswith("*.")]
    # Let's Encrypt refuses a name beside a wildcard that covers it, so such a name is dropped like a duplicate.
    san = tuple(
        full for full in requested if full not in implied and (full in wildcards or not covers(wildcards, full))
    )
    names = (*implied, *san)
    if len(names) > MOST_NAMES:
        raise InvalidFieldError(
            "san",
            f"{len(names)} names are too many: a certificate covers at most {MOST_NAMES}, including the common name",
        )
    return OrderNames(domain, name, common_name, san, names)


def covers(names: Iterable[str], wanted: str) -> bool:
    """Whether one of `names` is `wanted` or a wildcard for it (RFC 6125: one label, the leftmost)."""
    _, _, parent = wanted.partition(".")
    return any(name in {wanted, f"*.{parent}"} for name in names)


def digest_names(names: Iterable[str]) -> str:
    """SHA-256 in hex: equal for the same set of names, in any order."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode()).hexdigest()


def _relative_name(text: str, domain: str) -> str:
    if not text:
        return ""
    wildcard, rest = _split_wildcard(text)
    if not rest:
        return "*"
    host = _host("name", rest)
    if host == domain:
        return "*" if wildcard else ""
    host = host.removesuffix(f".{domain}")
    if "." in host and host.rpartition(".")[2] == domain.rpartition(".")[2]:
        raise InvalidFieldError("name", f"{text!r} is outside {domain}: use only the part before .{domain}")
    _check_length("name", f"{host}.{domain}")
    return f"*.{host}" if wildcard else host


def _full_name(text: str, domain: str) -> str:
    wildcard, rest = _split_wildcard(text)
    host = domain if wildcard and not rest else _host("san", rest)
    if "." not in host:
        host = f"{host}.{domain}"
    if host != domain and not host.endswith(f".{domain}"):
        raise InvalidFieldError(
            "san",
            f"{text!r} is outside {domain}: all names of a certificate must be in one domain; place another order",
        )
    _check_length("san", host)
    return f"*.{host}" if wildcard else host


def _split_wildcard(text: str) -> tuple[bool, str]:
    text = text.strip()
    if text == "*":
        return True, ""
    return (True, text[2:]) if text.startswith("*.") else (False, text)


def _host(field: str, text: str) -> str:
    """Lower-case A-labels of a host name, without a final dot."""
    text = text.strip().removesuffix(".")
    try:
        host = idna.encode(text, uts46=True, std3_rules=True).decode().lower() if text else ""
    except (idna.IDNAError, UnicodeError):
        host = ""
    if not host or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise InvalidFieldError(
            field, f"{_shown(text)} is not a host name: use labels of letters, digits and hyphens, joined by dots"
        )
    _check_length(field, host)
    return host


def _check_length(field: str, host: str) -> None:
    if len(host) > 253:
        raise InvalidFieldError(field, f"{_shown(host)} is longer than 253 characters, the limit of a host name")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
