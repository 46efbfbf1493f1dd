"""The reference of DNSimple's webhook events."""

from __future__ import annotations

import json

from app.events.ingestion import parse_event
from app.metrics import CERTIFICATE_EVENTS
from tools.reference import markdown

_INTRO = """\
DNSimple posts events to `POST /dnsimple/events/<secret>`. Every well-formed event is stored and answered with 200.
For an event that is handled, only its name, its `request_identifier` and the IDs of certificate and domain are used;
everything else is read from DNSimple by ID. Events about auto-renewal and private keys cost one API call each, at
most one in 30 seconds per domain, and none for a certificate that has not been fetched."""
_EFFECTS = {
    "certificate.issue": "The certificate is fetched by its ID and delivered, regardless of how it was ordered.",
    "certificate.reissue": "The same, even if it has been fetched before; it is redelivered if it has changed.",
    "certificate.auto_renewal_failed": (
        "The domain's certificates are listed. If none of them has been renewed, the failure is recorded in the "
        "timeline and shown as the reason of a `renewal_overdue` alert."
    ),
    "certificate.auto_renewal_enable": (
        "The domain's certificates are listed, and their auto-renewal setting is stored."
    ),
    "certificate.auto_renewal_disable": "The same.",
    "certificate.remove_private_key": (
        "The key is requested from DNSimple. If it is gone, this is recorded in the timeline. Certcourier keeps its "
        "encrypted copy, unless `KEEP_KEYS_REMOVED_AT_DNSIMPLE` is `false`: then the copy is deleted."
    ),
}
_NONE = "Stored and ignored."


def page() -> str:
    """One row for each certificate event, and one for all others."""
    rows = [(f"`{name}`", _effect(name)) for name in [*_EFFECTS, *sorted(CERTIFICATE_EVENTS - _EFFECTS.keys())]]
    return markdown.page("Events", _INTRO, markdown.table(("Event", "Effect"), [*rows, ("any other", _NONE)]))


def _effect(name: str) -> str:
    if not is_handled(name):
        return _NONE
    return markdown.described(_EFFECTS.get(name), f"the event {name}")


def is_handled(name: str) -> bool:
    """Whether ingestion reads the certificate ID of such an event."""
    body = {
        "name": name,
        "request_identifier": "1",
        "account": {"id": 1010},
        "data": {"certificate": {"id": 1, "domain_id": 2}},
    }
    return parse_event(json.dumps(body).encode()).certificate_id is not None
