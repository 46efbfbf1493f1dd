"""Reading what is on record: orders, certificates and their stories."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload, selectinload

from app.auth.scopes import only, permits
from app.certificates.lineages import newest_of_lineage
from app.certificates.states import check_certificate_state, check_order_state
from app.db.clock import read_now
from app.db.models import Certificate, EndpointCheck, Event, Order, OrderState, TimelineEntry
from app.dnsimple.adapter import Deadline
from app.services import Services

# A lineage that expired longer ago was given up: nobody is served by it any more.
GIVEN_UP = timedelta(days=7)
_LOOK_SECONDS = 0.1
_SETTLED = {OrderState.ISSUED, OrderState.FETCHED, OrderState.FAILED}


@dataclass(frozen=True, slots=True)
class Page[T]:
    """Some rows, newest first, and the ID to go on after, or None at the end."""

    rows: list[T]
    next_after: str | None


def find_order(
    services: Services, order_id: str, *, domains: Sequence[str] | None = None
) -> tuple[Order, Certificate | None, list[TimelineEntry]] | None:
    """An order, its certificate with deliveries, and its story in the order in which it happened.

    `domains`, here and below, are the patterns that the reader is limited to: what is outside does not exist for it.
    """
    with services.database.read() as session:
        order = session.get(Order, order_id)
        if order is None or not permits(domains, order.domain):
            return None
        certificate = _certificate(session, order.certificate_id)
        timeline = session.scalars(select(TimelineEntry).where(TimelineEntry.order_id == order_id))
        return order, certificate, _in_time(timeline.all())


def find_certificate(
    services: Services, certificate_id: int, *, domains: Sequence[str] | None = None
) -> tuple[Certificate, list[TimelineEntry], list[EndpointCheck]] | None:
    """A certificate with lineage and deliveries, its story, from the order on, and what shall serve it."""
    with services.database.read() as session:
        certificate = _certificate(session, certificate_id)
        if certificate is None or not permits(domains, certificate.domain):
            return None
        about = TimelineEntry.certificate_id == certificate_id
        if certificate.order_id is not None:
            about |= TimelineEntry.order_id == certificate.order_id
        seen = select(EndpointCheck).where(
            EndpointCheck.lineage_id == certificate.lineage_id, EndpointCheck.certificate_id == certificate_id
        )
        endpoints = list(session.scalars(seen.order_by(EndpointCheck.endpoint)))
        return certificate, _in_time(session.scalars(select(TimelineEntry).where(about)).all()), endpoints


def list_certificates(
    services: Services,
    *,
    domain: str | None,
    state: str | None,
    after: int | None,
    limit: int,
    domains: Sequence[str] | None = None,
) -> Page[Certificate]:
    """Certificates by ID, newest first, beginning below `after`. Raises `InvalidFieldError` for an unknown `state`."""
    with services.database.read() as session:
        check_certificate_state(session, state, domains)
    query = select(Certificate).options(joinedload(Certificate.lineage), selectinload(Certificate.deliveries))
    if after is not None:
        query = query.where(Certificate.id < after)
    query = query.where(*only(domains, Certificate.domain))
    query = _filtered(query, Certificate, domain, state).order_by(Certificate.id.desc())
    return _page(services, query, limit)


def list_orders(
    services: Services,
    *,
    domain: str | None,
    state: str | None,
    after: str | None,
    limit: int,
    domains: Sequence[str] | None = None,
) -> Page[Order]:
    """Orders by ID, which is by time, newest first, beginning below `after`; `state` is the order's.

    Raises `InvalidFieldError` for an unknown one.
    """
    check_order_state(state)
    query = select(Order).where(*only(domains, Order.domain))
    if after is not None:
        query = query.where(Order.id < after)
    return _page(services, _filtered(query, Order, domain, state).order_by(Order.id.desc()), limit)


def list_expiring(services: Services, *, days: float, limit: int) -> list[Certificate]:
    """The newest certificates of their lineages that expire within so many days, the soonest first.

    What expired in the last seven days is among them; a lineage that expired earlier was given up.
    """
    options = (joinedload(Certificate.lineage), selectinload(Certificate.deliveries))
    with services.database.read() as session:
        now = read_now(session)
        soon = Certificate.not_after.between(now - GIVEN_UP, now + timedelta(days=days))
        query = select(Certificate).options(*options).where(soon, newest_of_lineage()).order_by(Certificate.not_after)
        return list(session.scalars(query.limit(limit)))


def list_events(services: Services, *, certificate_id: int | None, limit: int) -> list[Event]:
    """Events, newest first."""
    query = select(Event)
    if certificate_id is not None:
        query = query.where(Event.certificate_id == certificate_id)
    with services.database.read() as session:
        return list(session.scalars(query.order_by(Event.id.desc()).limit(limit)))


def wait_until_issued(services: Services, order_id: str, deadline: Deadline) -> None:
    """Return when the order's certificate is issued or has failed, or when the deadline has passed."""
    pause = threading.Event()
    while deadline.remaining() > 0:
        with services.database.read() as session:
            state = session.scalar(select(Order.state).where(Order.id == order_id))
        if state in _SETTLED:
            return
        pause.wait(min(_LOOK_SECONDS, max(0.0, deadline.remaining())))


def _filtered(query: Select[Any], model: Any, domain: str | None, state: str | None) -> Select[Any]:
    if domain is not None:
        query = query.where(model.domain == domain)
    if state is not None:
        query = query.where(model.state == state)
    return query


def _page(services: Services, query: Select[Any], limit: int) -> Page[Any]:
    with services.database.read() as session:
        rows = list(session.scalars(query.limit(limit + 1)))
    more = len(rows) > limit
    return Page(rows[:limit], str(rows[limit - 1].id) if more else None)


def _certificate(session: Session, certificate_id: int | None) -> Certificate | None:
    if certificate_id is None:
        return None
    options = (joinedload(Certificate.lineage), selectinload(Certificate.deliveries))
    return session.get(Certificate, certificate_id, options=options)


def _in_time(lines: Any) -> list[TimelineEntry]:
    return sorted(lines, key=lambda line: (line.at, line.id))
