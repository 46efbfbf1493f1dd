"""Checks of a domain in the DNS, as Let's Encrypt will see it: delegation, CAA (RFC 8659) and DNSSEC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dns import flags, rdatatype
from dns.exception import DNSException
from dns.name import from_text
from dns.resolver import NXDOMAIN, NoAnswer, NoNameservers, Resolver

from app.doctor.findings import CheckContext, Finding, ok, problem, warning

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


def check_delegation(examination: CheckContext) -> Iterable[Finding]:
    """The proof is a record that DNSimple adds: all of the domain's name servers have to be DNSimple's."""
    if examination.domain is None:
        return
    domain = examination.domain
    try:
        found = _resolver(examination).resolve(domain, "NS")
    except NXDOMAIN:
        yield problem(f"{domain} does not exist in the DNS", "register it, or delegate it to DNSimple")
        return
    except (NoAnswer, DNSException) as error:
        yield problem(f"the name servers of {domain} cannot be found ({_why(error)})", "see the check `dnssec`")
        return
    names = {str(record.target).rstrip(".").lower() for record in found}
    others = sorted(names - _NAME_SERVERS)
    if not others:
        yield ok(f"{domain} is delegated to DNSimple alone")
    elif len(others) == len(names):
        yield problem(
            f"{domain} is delegated to {', '.join(others)}: none of DNSimple's usual name servers",
            "delegate it to DNSimple at its registrar (name servers of your own name at DNSimple are fine)",
        )
    else:
        yield problem(
            f"{domain} is delegated to {', '.join(others)} too, where DNSimple's proof is not found",
            "delegate it to DNSimple's name servers alone",
        )


def check_caa(examination: CheckContext) -> Iterable[Finding]:
    """Let's Encrypt refuses a domain whose nearest CAA records do not name it."""
    if examination.domain is None:
        return
    try:
        holder, records = _nearest_caa(_resolver(examination), examination.domain)
    except DNSException as error:
        yield problem(
            f"the CAA records of {examination.domain} cannot be asked for ({_why(error)}): Let's Encrypt refuses then",
            "see that all of its name servers answer; see the check `dnssec`",
        )
        return
    if not records:
        yield ok("no CAA record restricts who may issue")
        return
    unknown = sorted({record.tag.decode() for record in records if record.flags & _CRITICAL} - _KNOWN_TAGS)
    issue, wild = _allowed(records, b"issue"), _allowed(records, b"issuewild")
    remedy = f'add a CAA record to {holder}: 0 issue "{_AUTHORITY}"'
    if unknown:
        yield problem(f"CAA of {holder}: {', '.join(unknown)} is critical and unknown", "remove it")
    if issue is not None and _AUTHORITY not in issue:
        yield problem(f"CAA of {holder} allows {', '.join(sorted(issue)) or 'nobody'}, not {_AUTHORITY}", remedy)
    elif wild is not None and _AUTHORITY not in wild:
        yield warning(f"CAA of {holder} allows no wildcard from {_AUTHORITY}", remedy.replace("issue", "issuewild"))
    elif not unknown:
        yield ok(f"CAA of {holder} allows {_AUTHORITY}")


def check_dnssec(examination: CheckContext) -> Iterable[Finding]:
    """A chain of trust that is broken looks like no answer at all to Let's Encrypt."""
    if examination.domain is None:
        return
    domain = examination.domain
    resolver = _resolver(examination)
    try:
        signed = _answers(resolver, domain, "DS")
        _answers(resolver, domain, "SOA")
    except NoNameservers:
        resolver.flags = flags.RD | flags.CD
        try:
            _answers(resolver, domain, "SOA")
        except DNSException as error:
            yield problem(f"{domain} is not answered for ({_why(error)})", "see the check `delegation`")
        else:
            yield problem(
                f"DNSSEC of {domain} is broken: it is answered for only when signatures are not checked",
                "correct or remove the DS record at the registrar",
            )
    except DNSException as error:
        yield problem(f"{domain} cannot be asked for ({_why(error)})", "see that the resolver is reached; --resolver")
    else:
        yield ok(f"{domain} is {'signed, and its signatures are good' if signed else 'not signed'}")


def _resolver(examination: CheckContext) -> Resolver:
    resolver = Resolver(configure=examination.resolver is None)
    if examination.resolver is not None:
        address, resolver.port = examination.resolver
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


def _why(error: Exception) -> str:
    return {"NoNameservers": "no usable answer", "LifetimeTimeout": "no answer in time"}.get(
        type(error).__name__, type(error).__name__
    )
