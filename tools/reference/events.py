"""Events of DNSimple's webhooks."""

from __future__ import annotations

import json

from app.events.ingestion import parse_event
from app.metrics import CERTIFICATE_EVENTS
from tools.reference import markdown

_INTRO = """\
What DNSimple posts to `/dnsimple/events/<secret>`. Every event is answered with 200 once it is on record. Of one that
is acted on only its name, its `request_identifier` and the IDs of certificate and domain are used; all else is asked
for by ID."""
_DOES = {
    "certificate.issue": "The certificate is fetched by its ID and installed, whoever ordered it.",
    "certificate.reissue": "The certificate is fetched by its ID and installed.",
    "certificate.auto_renewal_failed": "The domain's certificates are listed, and a missing renewal is told of.",
    "certificate.auto_renewal_enable": "The domain's certificates are listed, and their auto-renewal is noted.",
    "certificate.auto_renewal_disable": "The domain's certificates are listed, and their auto-renewal is noted.",
    "certificate.remove_private_key": "DNSimple is asked whether the key is gone, and our copy goes with it.",
}
_NOTHING = "On record, nothing else."


def page() -> str:
    """Each event of certificates, and all others in one row."""
    rows = [(f"`{name}`", _does(name)) for name in sorted(CERTIFICATE_EVENTS)]
    return markdown.page(
        "Events", _INTRO, markdown.table(("Event", "What happens"), [*rows, ("every other", _NOTHING)])
    )


def _does(name: str) -> str:
    if not is_acted_on(name):
        return _NOTHING
    return markdown.described(_DOES.get(name), f"what {name} does (in tools/reference/events.py)")


def is_acted_on(name: str) -> bool:
    """Whether the certificate of such an event is looked at at all."""
    certificate = {"id": 1, "domain_id": 2}
    body = {
        "name": name,
        "request_identifier": "1",
        "account": {"id": 1010},
        "data": {"certificate": certificate},
    }
    return parse_event(json.dumps(body).encode()).certificate_id is not None
