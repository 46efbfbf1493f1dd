"""Certificates: list, get, download, private key, and the four Let's Encrypt calls."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, jsonify

from simulator.api import Refusal, body, find_domain, number, paginated, sort_by, world
from simulator.clock import as_time
from simulator.state import Certificate, Domain, Renewal

blueprint = Blueprint("certificates", __name__)

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)
_MOST_NAMES = 100
_EARLY_SECONDS = 10.0  # the longest that an answer waits for its event to come first
_PATH = "/<account>/domains/<domain>/certificates"


@blueprint.get(_PATH)
def list_certificates(domain: str) -> Response:
    found = find_domain(domain)
    field, downwards = sort_by("id:desc", "id", "common_name", "expiration")
    key = {"expiration": "expires_at"}.get(field, field)
    with world().state.lock:
        documents = [c.document() for c in world().state.certificates.values() if c.domain_id == found.id]
    documents.sort(key=lambda document: (document[key] or "", document["id"]) if key != "id" else document["id"])
    return paginated(documents[::-1] if downwards else documents)


@blueprint.get(_PATH + "/<certificate>")
def show_certificate(domain: str, certificate: str) -> Response:
    return jsonify({"data": _find(find_domain(domain), certificate).document()})


@blueprint.get(_PATH + "/<certificate>/download")
def download(domain: str, certificate: str) -> Response:
    found = _find(find_domain(domain), certificate)
    if not _is_ready(found):
        raise Refusal(428, "Certificate not issued")
    return jsonify({"data": {"server": found.server, "root": None, "chain": found.chain}})


@blueprint.get(_PATH + "/<certificate>/private_key")
def private_key(domain: str, certificate: str) -> Response:
    found = _find(find_domain(domain), certificate)
    if not _is_ready(found) or found.private_key is None:
        raise Refusal(428, "Private key not present")
    return jsonify({"data": {"private_key": found.private_key}})


@blueprint.post(_PATH + "/letsencrypt")
def purchase(domain: str) -> tuple[Response, int]:
    found, given = find_domain(domain), body()
    name, alternates, algorithm = _checked_names(given, found)
    _check_plan(name, alternates)
    state = world().state
    with state.lock:
        now, certificate_id = world().clock.now(), state.new_id("certificate")
        purchase_id = state.new_id("purchase") if world().settings.distinct_purchase_ids else certificate_id
        common_name = f"{name}.{found.name}" if name else found.name
        own = [common_name, found.name] if name == "www" else [common_name]
        certificate = Certificate(
            id=certificate_id,
            domain_id=found.id,
            name=name,
            common_name=common_name,
            alternate_names=alternates,
            names=list(dict.fromkeys([*own, *(alternate.lower() for alternate in alternates)])),
            auto_renew=bool(given.get("auto_renew", False)),
            algorithm=algorithm,
            created_at=now,
            updated_at=now,
            purchase_id=purchase_id,
        )
        state.save(certificate)
    document = {
        "id": purchase_id,
        "certificate_id": certificate_id,
        "state": "new",
        "auto_renew": certificate.auto_renew,
        "created_at": as_time(now),
        "updated_at": as_time(now),
    }
    return jsonify({"data": document}), 201


@blueprint.post(_PATH + "/letsencrypt/<certificate>/issue")
def issue(domain: str, certificate: str) -> tuple[Response, int]:
    body()
    return jsonify({"data": _request(_find(find_domain(domain), certificate))}), 202


@blueprint.post(_PATH + "/letsencrypt/<certificate>/renewals")
def order_renewal(domain: str, certificate: str) -> tuple[Response, int]:
    old, given = _find(find_domain(domain), certificate), body()
    if old.state != "issued":
        raise Refusal(400, f"{old.common_name} may not be renewed at this time")
    state = world().state
    with state.lock:
        new = world().issuer.renew(old)
        new.auto_renew = bool(given.get("auto_renew", False))
        new.algorithm = _algorithm(given)
        renewal = Renewal(state.new_id("renewal"), old.id, new.id, new.auto_renew, world().clock.now())
        state.save(new, renewal)
    return jsonify({"data": _renewal(renewal)}), 201


@blueprint.post(_PATH + "/letsencrypt/<certificate>/renewals/<renewal>/issue")
def issue_renewal(domain: str, certificate: str, renewal: str) -> tuple[Response, int]:
    old = _find(find_domain(domain), certificate)
    found = world().state.renewals.get(number(renewal, "Renewal"))
    if found is None or found.old_certificate_id != old.id:
        raise Refusal(404, f"Renewal `{renewal}` not found")
    document = _request(world().state.certificates[found.new_certificate_id])
    with world().state.lock:
        found.state = "renewing"
        world().state.save(found)
    return jsonify({"data": document}), 202


def _find(domain: Domain, reference: str) -> Certificate:
    certificate = world().state.certificates.get(number(reference, "Certificate"))
    if certificate is None or certificate.domain_id != domain.id:
        raise Refusal(404, f"Certificate `{reference}` not found")
    return certificate


def _is_ready(certificate: Certificate) -> bool:
    lag = world().settings.issued_lag
    return certificate.issued_at is not None and world().clock.now() >= certificate.issued_at + lag


def _request(certificate: Certificate) -> dict[str, Any]:
    """Request issuance. A second request is refused; DNSimple's wording is undocumented (contract, section 6)."""
    early = world().dice.hits("event-early")
    with world().state.lock:
        if certificate.state != "new":
            raise Refusal(400, "The certificate cannot be issued")
        world().issuer.request(certificate, delay=0.0 if early else None)
        document = certificate.document()
    if early:
        world().sender.wait_until_tried(lambda: certificate.state != "requesting", _EARLY_SECONDS)
    return document


def _checked_names(given: dict[str, Any], domain: Domain) -> tuple[str, list[str], str]:
    errors: dict[str, list[str]] = {}
    name = given.get("name", "www")
    if not isinstance(name, str) or not _is_name(name):
        errors["name"] = ["is invalid"]
    alternates = given.get("alternate_names", [])
    if not isinstance(alternates, list) or not all(isinstance(one, str) for one in alternates):
        errors["alternate_names"] = ["is invalid"]
    elif not all(_is_inside(one.lower(), domain.name) for one in alternates):
        errors["alternate_names"] = [f"must be host names in {domain.name}"]
    elif len(alternates) >= _MOST_NAMES:
        errors["alternate_names"] = [f"must be fewer than {_MOST_NAMES}"]
    if not isinstance(given.get("auto_renew", False), bool):
        errors["auto_renew"] = ["is invalid"]
    if errors:
        raise Refusal(400, "Validation failed", errors)
    return name.lower(), alternates, _algorithm(given)


def _algorithm(given: dict[str, Any]) -> str:
    algorithm = given.get("signature_algorithm", "ECDSA")
    if algorithm not in {"ECDSA", "RSA"}:
        raise Refusal(400, "Validation failed", {"signature_algorithm": ["is not included in the list"]})
    return str(algorithm)


def _is_name(name: str) -> bool:
    rest = name.removeprefix("*.") if name != "*" else ""
    return rest == "" or all(_LABEL.fullmatch(label) for label in rest.split("."))


def _is_inside(name: str, domain: str) -> bool:
    return name == domain or (name.endswith(f".{domain}") and _is_name(name.removesuffix(f".{domain}")))


def _check_plan(name: str, alternates: list[str]) -> None:
    """Refuse custom names, alternate names and wildcards on smaller plans (contract, section 2.3)."""
    settings = world().settings
    if settings.plan == "none":
        raise Refusal(412, f"Let's Encrypt feature is not enabled for the account {settings.email}")
    if settings.plan == "solo":
        wanted = [
            ("wildcard", any("*" in one for one in (name, *alternates))),
            ("SAN", bool(alternates)),
            ("custom-name", name not in {"", "www"}),
        ]
        for feature, is_wanted in wanted:
            if is_wanted:
                raise Refusal(
                    412,
                    f"The certificate requires the {feature} feature that is not available on the current plan for "
                    f"the account {settings.email}",
                )


def _renewal(renewal: Renewal) -> dict[str, Any]:
    return {
        "id": renewal.id,
        "old_certificate_id": renewal.old_certificate_id,
        "new_certificate_id": renewal.new_certificate_id,
        "state": renewal.state,
        "auto_renew": renewal.auto_renew,
        "created_at": as_time(renewal.created_at),
        "updated_at": as_time(renewal.created_at),
    }
