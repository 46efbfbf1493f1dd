"""Checks of a domain as Let's Encrypt will see it: zone, delegation, CAA (RFC 8659) and DNSSEC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dns import flags, rdatatype
from dns.exception import DNSException
from dns.name import from_text
from dns.resolver import NXDOMAIN, NoAnswer, NoNameservers, Resolver

from app.dnsimple.errors import NotFoundError
from app.doctor.findings import CheckContext, Finding, critical, ok, warning

_AUTHORITY = "letsencrypt.org"
_SECONDS = 5.0
_KNOWN_TAGS = {"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"}
_CRITICAL = 128
# Contract of DNSimple, section 3: the present set and the one before it, which still works.
_NAME_SERVERS = {
    "ns1.dnsimple-edge.com",
    "ns2.dnsimple-edge.net",
    "ns3.dnsimple-edge.io",
    "ns4.dnsimple-edge.org",
    *(f"ns{number}.dnsimple.com" for number in range(1, 5)),
}


def check_zone(context: CheckContext) -> Iterable[Finding]:
    """DNSimple can validate only a domain whose zone it serves."""
    domain = context.domain
    if domain is None:
        return
    try:
        zone = context.dnsimple.zone(domain)
    except NotFoundError:
        yield critical(f"the account has no zone {domain}", "add the domain, or give the token access to it")
        return
    if not zone.active:
        yield critical(f"the zone {domain} is not active", "enable its resolution on the domain's page at DNSimple")
    if zone.secondary:
        yield critical(
            f"the zone {domain} is secondary: DNSimple cannot add the validation record",
            "make DNSimple the primary",
        )
    if zone.active and not zone.secondary:
        yield ok(f"the zone {domain} is active")


def check_delegation(context: CheckContext) -> Iterable[Finding]:
    """The domain is validated by a record that DNSimple adds: all its name servers have to be DNSimple's."""
    if context.domain is None:
        return
    domain = context.domain
    try:
        found = _resolver(context).resolve(domain, "NS")
    except NXDOMAIN:
        yield critical(f"{domain} does not exist in the DNS", "register it, or delegate it to DNSimple")
        return
    except (NoAnswer, DNSException) as error:
        yield critical(f"the name servers of {domain} cannot be found ({_reason(error)})", "see the check `dnssec`")
        return
    names = {str(record.target).rstrip(".").lower() for record in found}
    others = sorted(names - _NAME_SERVERS)
    if not others:
        yield ok(f"{domain} is delegated only to DNSimple")
    elif len(others) == len(names):
        yield critical(
            f"{domain} is delegated to {', '.join(others)}: none of DNSimple's usual name servers",
            "delegate it to DNSimple at its registrar (vanity name servers at DNSimple are fine)",
        )
    else:
        yield critical(
            f"{domain} is also delegated to {', '.join(others)}, which do not serve DNSimple's validation record",
            "delegate it only to DNSimple's name servers",
        )


def check_caa(context: CheckContext) -> Iterable[Finding]:
    """Let's Encrypt refuses a domain whose nearest CAA records do not name it."""
    if context.domain is None:
        return
    try:
        holder, records = _nearest_caa(_resolver(context), context.domain)
    except DNSException as error:
        yield critical(
            f"the CAA records of {context.domain} cannot be resolved ({_reason(error)}): Let's Encrypt would refuse it",
            "check that all of its name servers answer; see the check `dnssec`",
        )
        return
    if not records:
        yield ok("no CAA record restricts who may issue")
        return
    unknown = sorted({record.tag.decode() for record in records if record.flags & _CRITICAL} - _KNOWN_TAGS)
    issue, wild = _allowed(records, b"issue"), _allowed(records, b"issuewild")
    remedy = f'add a CAA record to {holder}: 0 issue "{_AUTHORITY}"'
    if unknown:
        yield critical(f"CAA of {holder}: {', '.join(unknown)} is critical and unknown", "remove it")
    if issue is not None and _AUTHORITY not in issue:
        yield critical(f"CAA of {holder} allows {', '.join(sorted(issue)) or 'no authority'}, not {_AUTHORITY}", remedy)
    elif wild is not None and _AUTHORITY not in wild:
        yield warning(f"CAA of {holder} allows no wildcard from {_AUTHORITY}", remedy.replace("issue", "issuewild"))
    elif not unknown:
        yield ok(f"CAA of {holder} allows {_AUTHORITY}")


def check_dnssec(context: CheckContext) -> Iterable[Finding]:
    """To Let's Encrypt, a broken chain of trust looks like no answer at all."""
    if context.domain is None:
        return
    domain = context.domain
    resolver = _resolver(context)
    try:
        signed = _answers(resolver, domain, "DS")
        _answers(resolver, domain, "SOA")
    except NoNameservers:
        resolver.flags = flags.RD | flags.CD
        try:
            _answers(resolver, domain, "SOA")
        except DNSException as error:
            yield critical(f"{domain} has no working name server ({_reason(error)})", "see the check `delegation`")
        else:
            yield critical(
                f"DNSSEC of {domain} is broken: it resolves only without validation",
                "correct or remove the DS record at the registrar",
            )
    except DNSException as error:
        yield critical(f"{domain} cannot be looked up ({_reason(error)})", "check the resolver; see --resolver")
    else:
        yield ok(f"{domain} is {'signed, and DNSSEC validates' if signed else 'not signed'}")


def _resolver(context: CheckContext) -> Resolver:
    resolver = Resolver(configure=context.resolver is None)
    if context.resolver is not None:
        address, resolver.port = context.resolver
        resolver.nameservers = [address]
    resolver.lifetime = _SECONDS
    return resolver


def _nearest_caa(resolver: Resolver, domain: str) -> tuple[str, list[Any]]:
    """RFC 8659, section 3: of the name itself, else of the nearest one above that has any."""
    name = from_text(domain)
    while len(name) > 1:
        records = _answers(resolver, str(name), "CAA")
        if records:
            return str(name).rstrip("."), records
        name = name.parent()
    return "", []


def _answers(resolver: Resolver, name: str, kind: str) -> list[Any]:
    try:
        return list(resolver.resolve(name, rdatatype.from_text(kind)))
    except (NoAnswer, NXDOMAIN):
        return []


def _allowed(records: list[Any], tag: bytes) -> set[str] | None:
    values = [record.value.decode(errors="replace") for record in records if record.tag.lower() == tag]
    return {value.partition(";")[0].strip().lower() for value in values} - {""} if values else None


def _reason(error: Exception) -> str:
    return {"NoNameservers": "no usable answer", "LifetimeTimeout": "no answer in time"}.get(
        type(error).__name__, type(error).__name__
    )
