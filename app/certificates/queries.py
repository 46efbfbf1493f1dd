"""Reading orders, certificates and their timelines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload, selectinload

from app.auth.scopes import only, permits
from app.certificates.lifetime import expires_within
from app.certificates.lineages import newest_of_lineage
from app.db.clock import read_now
from app.db.database import Database
from app.db.models import Certificate, EndpointCheck, Event, Order, OrderState, TimelineEntry
from app.db.models.states import CERTIFICATE_STATES, FINAL_ORDER_STATES
from app.db.pagination import Page, paginate
from app.dnsimple.adapter import Deadline
from app.domain_names import InvalidFieldError

_POLL_SECONDS = 0.1
_SETTLED = FINAL_ORDER_STATES | {OrderState.ISSUED}


def find_order(
    database: Database, order_id: str, *, domains: Sequence[str] | None = None
) -> tuple[Order, Certificate | None, list[TimelineEntry]] | None:
    """An order, its certificate with deliveries, and its timeline, oldest entry first.

    `domains`, here and below, are the patterns that the reader is restricted to: it does not see other domains.
    """
    with database.read() as session:
        order = session.get(Order, order_id)
        if order is None or not permits(domains, order.domain):
            return None
        certificate = _certificate(session, order.certificate_id)
        timeline = session.scalars(select(TimelineEntry).where(TimelineEntry.order_id == order_id))
        return order, certificate, _in_time(timeline.all())


def find_certificate(
    database: Database, certificate_id: int, *, domains: Sequence[str] | None = None
) -> tuple[Certificate, list[TimelineEntry], list[EndpointCheck]] | None:
    """A certificate with lineage and deliveries, its timeline from the order on, and its endpoint checks."""
    with database.read() as session:
        certificate = _certificate(session, certificate_id)
        if certificate is None or not permits(domains, certificate.domain):
            return None
        about = TimelineEntry.certificate_id == certificate_id
        if certificate.order_id is not None:
            about |= TimelineEntry.order_id == certificate.order_id
        checks = select(EndpointCheck).where(
            EndpointCheck.lineage_id == certificate.lineage_id, EndpointCheck.certificate_id == certificate_id
        )
        endpoints = list(session.scalars(checks.order_by(EndpointCheck.endpoint)))
        return certificate, _in_time(session.scalars(select(TimelineEntry).where(about)).all()), endpoints


def list_certificates(
    database: Database,
    *,
    domain: str | None,
    state: str | None,
    cursor: str | None,
    limit: int,
    domains: Sequence[str] | None = None,
) -> Page[Certificate]:
    """Certificates, newest first. Raises `InvalidFieldError` for an unknown `state` or `cursor`."""
    query = select(Certificate).options(joinedload(Certificate.lineage), selectinload(Certificate.deliveries))
    query = _filtered(query.where(*only(domains, Certificate.domain)), Certificate, domain, state)
    with database.read() as session:
        check_certificate_state(session, state, domains)
        return paginate(session, query, {"id": Certificate.id}, cursor=cursor, limit=limit, descending=True)


def list_orders(
    database: Database,
    *,
    domain: str | None,
    state: str | None,
    cursor: str | None,
    limit: int,
    domains: Sequence[str] | None = None,
) -> Page[Order]:
    """Orders, newest first; `state` is the order's. Raises `InvalidFieldError` for an unknown `state` or `cursor`."""
    if state is not None and state not in set(OrderState):
        raise InvalidFieldError("state", f"must be one of {', '.join(OrderState)}")
    query = _filtered(select(Order).where(*only(domains, Order.domain)), Order, domain, state)
    with database.read() as session:
        return paginate(session, query, {"id": Order.id}, cursor=cursor, limit=limit, descending=True)


def check_certificate_state(session: Session, state: str | None, domains: Sequence[str] | None = None) -> None:
    """Raise `InvalidFieldError` if DNSimple documents no such state and no certificate that is visible is in it."""
    if state is None or state in CERTIFICATE_STATES:
        return
    visible = select(Certificate.id).where(Certificate.state == state, *only(domains, Certificate.domain)).limit(1)
    if session.scalar(visible) is None:
        raise InvalidFieldError("state", f"must be one of {', '.join(CERTIFICATE_STATES)}")


def list_expiring(database: Database, *, within: timedelta, limit: int) -> list[Certificate]:
    """The newest certificates of their lineages that expire within this time, the soonest first.

    Those that have expired are included until their lineage counts as abandoned.
    """
    options = (joinedload(Certificate.lineage), selectinload(Certificate.deliveries))
    with database.read() as session:
        soon = expires_within(read_now(session), within)
        query = select(Certificate).options(*options).where(soon, newest_of_lineage()).order_by(Certificate.not_after)
        return list(session.scalars(query.limit(limit)))


def list_events(
    database: Database, *, certificate_id: int | None = None, cursor: str | None = None, limit: int
) -> Page[Event]:
    """Events, newest first. Raises `InvalidFieldError` for an unknown `cursor`."""
    query = select(Event)
    if certificate_id is not None:
        query = query.where(Event.certificate_id == certificate_id)
    with database.read() as session:
        return paginate(session, query, {"id": Event.id}, cursor=cursor, limit=limit, descending=True)


def wait_until_issued(database: Database, order_id: str, deadline: Deadline) -> None:
    """Return when the order's certificate is issued or has failed, or when the deadline has passed."""
    pause = threading.Event()
    while deadline.remaining() > 0:
        with database.read() as session:
            state = session.scalar(select(Order.state).where(Order.id == order_id))
        if state in _SETTLED:
            return
        pause.wait(min(_POLL_SECONDS, max(0.0, deadline.remaining())))


def _filtered(query: Select[Any], model: Any, domain: str | None, state: str | None) -> Select[Any]:
    if domain is not None:
        query = query.where(model.domain == domain)
    if state is not None:
        query = query.where(model.state == state)
    return query


def _certificate(session: Session, certificate_id: int | None) -> Certificate | None:
    if certificate_id is None:
        return None
    options = (joinedload(Certificate.lineage), selectinload(Certificate.deliveries))
    return session.get(Certificate, certificate_id, options=options)


def _in_time(entries: Any) -> list[TimelineEntry]:
    return sorted(entries, key=lambda entry: (entry.at, entry.id))
