"""The list of certificates, and one certificate with its timeline and actions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Response, abort, request
from pydantic import BaseModel, Field

from app.alerts.rules import renewal_severities
from app.certificates import lineages, queries
from app.db.clock import read_now
from app.db.models import Certificate, EndpointCheck, Event, TimelineEntry
from app.db.models.states import CERTIFICATE_STATES
from app.web.context import current, services
from app.web.dashboard import actions, search
from app.web.dashboard.blueprint import blueprint, render
from app.web.dashboard.login import page, who
from app.web.dashboard.search import CertificateFilter
from app.web.dashboard.views import LIMIT, cursor, done, next_page

_EXPIRING = (3, 7, 14, 30)
_MOST_EVENTS = 200


class CertificateQuery(BaseModel):
    """The filters of the list, as the form sends them; an empty field filters nothing."""

    q: str = Field("", max_length=255)
    state: str = Field("", pattern="^[a-z_]{0,40}$")
    expiring: str = Field("", pattern="^[0-9]{0,3}$")
    destination: str = Field("", max_length=63)
    unsuccessful: str = Field("", pattern="^1?$")

    def wanted(self) -> CertificateFilter:
        """The use case's request."""
        days = int(self.expiring) if self.expiring else None
        return CertificateFilter(self.q, self.state, days, bool(self.unsuccessful), self.destination)


@blueprint.get("/certificates")
@page(by_domain=True)
def certificates() -> Response:
    """The certificates that match; without a filter the newest first."""
    names = CertificateQuery.model_fields
    query = CertificateQuery.model_validate({name: request.args.get(name, "").replace("\0", "") for name in names})
    found = search.search(
        services().database,
        query.wanted(),
        destinations=services().destinations,
        cursor=cursor(),
        limit=LIMIT,
        domains=who().domains,
    )
    with services().database.read() as session:
        now, replaced = read_now(session), lineages.replaced(session, found.rows)
        overdue = renewal_severities(services(), session, found.rows)
    return render(
        "certificates.html",
        page=found,
        replaced=replaced,
        overdue=overdue,
        query=query,
        next_page=next_page(found.next_cursor),
        states=CERTIFICATE_STATES,
        expiring=_EXPIRING,
        destinations=list(services().destinations),
        now=now,
    )


@blueprint.get("/certificates/<id:certificate_id>")
@page(by_domain=True)
def certificate(certificate_id: int) -> Response:
    """One certificate with its deliveries, endpoints and timeline."""
    found, timeline, endpoints = _find(certificate_id)
    current().reads.note(services(), who().actor, certificate_id)
    events = queries.list_events(services().database, certificate_id=certificate_id, limit=_MOST_EVENTS).rows
    with services().database.read() as session:
        now, replaced = read_now(session), lineages.replaced(session, [found])
        overdue = renewal_severities(services(), session, [found])
    return render(
        "certificate.html",
        certificate=found,
        replaced=bool(replaced),
        overdue=overdue.get(found.id),
        timeline=_timeline(timeline, events),
        endpoints=endpoints,
        now=now,
        done=done(),
        redelivery=who().may("admin") and not replaced,
        actions=actions.of(found, has_successor=bool(replaced)) if who().may("admin") else (),
    )


def _find(certificate_id: int) -> tuple[Certificate, list[TimelineEntry], list[EndpointCheck]]:
    found = queries.find_certificate(services().database, certificate_id, domains=who().domains)
    if found is None:
        abort(404, "No certificate has this ID.")
    return found


def _timeline(lines: list[TimelineEntry], events: list[Event]) -> list[dict[str, Any]]:
    """Steps and events by time; an event that a step already reports is left out."""
    reported = {(line.at, line.detail) for line in lines if line.step == "event received"}
    entries: list[tuple[datetime, dict[str, Any]]] = [
        (line.at, {"at": line.at, "step": line.step, "detail": line.detail}) for line in lines
    ]
    entries += [
        (event.received_at, {"at": event.received_at, "step": "webhook", "detail": f"{event.name}: {event.outcome}"})
        for event in events
        if (event.received_at, event.name) not in reported
    ]
    return [line for _, line in sorted(entries, key=lambda pair: pair[0])]
