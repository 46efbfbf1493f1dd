"""ACME Renewal Information (RFC 9773): the renewal window of each certificate."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from flask import Blueprint, Response, jsonify

from simulator.api import world
from simulator.clock import as_time
from simulator.state import Certificate

blueprint = Blueprint("renewal_info", __name__)

_DAY = 86400.0
_MALFORMED = "urn:ietf:params:acme:error:malformed"


@blueprint.get("/renewal-info/<identifier>")
def show_renewal_info(identifier: str) -> tuple[Response, int]:
    certificate = _find(identifier)
    if certificate is None:
        problem = {"type": _MALFORMED, "detail": "no certificate of this authority", "status": 404}
        return jsonify(problem), 404
    scripted = world().windows.get(certificate.id) or world().windows.get(None)
    window = scripted or _usual(certificate)
    document: dict[str, Any] = {"suggestedWindow": {"start": as_time(window["start"]), "end": as_time(window["end"])}}
    if window.get("explanation_url"):
        document["explanationURL"] = window["explanation_url"]
    answer = jsonify(document)
    answer.headers["Retry-After"] = str(world().settings.ari_retry_after)
    return answer, 200


def _find(identifier: str) -> Certificate | None:
    """Find a certificate by its ARI identifier: authority key identifier and DER serial number, each in base64url."""
    key, _, serial = identifier.partition(".")
    try:
        same_authority = _decoded(key) == world().state.authority.key_identifier()
        wanted = f"{int.from_bytes(_decoded(serial)):x}"
    except (binascii.Error, ValueError):
        return None
    if not same_authority:
        return None
    with world().state.lock:
        return next((one for one in world().state.certificates.values() if one.serial == wanted), None)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _usual(certificate: Certificate) -> dict[str, Any]:
    """The window that Let's Encrypt uses: a third of the lifetime before expiry, or half if it is below ten days."""
    expires = certificate.expires_at or 0.0
    lifetime = expires - (certificate.issued_at or 0.0)
    middle = expires - lifetime / (2 if lifetime < 10 * _DAY else 3)
    return {"start": middle - lifetime / 48, "end": middle + lifetime / 48}
