"""Checks whether endpoints serve what was delivered: after each delivery until they do, then daily.

The table `endpoint_checks` has a row for each lineage and endpoint, with the time of the next check. A job for each
endpoint performs the checks that are due; a periodic job starts these jobs, so that no check depends on a single job.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_of_lineage, recency
from app.db.clock import db_now, read_now
from app.db.database import Database
from app.db.installation_state import ENDPOINTS_DIGEST
from app.db.models import Certificate, Delivery, DeliveryState, EndpointCheck, EndpointState, Lineage
from app.db.upsert import insert_many_once, insert_once
from app.destinations.base import Destination
from app.endpoints.probe import ProbeResult, Probes
from app.endpoints.registry import Endpoint
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Queue, Snooze
from app.services import Services
from app.timeline import record_step

log = structlog.get_logger("certcourier")

SECONDS = 60
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # within the grace period
_LATE_PAUSES = (60.0, 300.0, 900.0, 3600.0)  # after it
_DAY = 86400.0
_CHECKS_PER_JOB = 20
_BATCH = 200


@dataclass(frozen=True, slots=True)
class _Due:
    """A row whose check is due, read before the endpoint is probed."""

    lineage_id: int
    certificate_id: int
    common_name: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The state that a probe found, with its explanation. `fingerprint`: the leaf's SHA-256, if any."""

    state: EndpointState
    detail: str
    fingerprint: str | None


def enqueue_endpoint_check(
    queue: Queue,
    destinations: Mapping[str, Destination],
    endpoints: Mapping[str, Endpoint],
    session: Session,
    certificate: Certificate,
) -> None:
    """Check each endpoint whose destinations all hold the certificate, in the caller's transaction."""
    if not endpoints or certificate.lineage_id is None:
        return
    # Two deliveries may finish at the same time: the second one sees what the first one committed.
    lineage = session.get_one(Lineage, certificate.lineage_id, with_for_update=True)
    for endpoint in endpoints.values():
        is_served_there = endpoint.serves(lineage.name, certificate.names)
        if is_served_there and _is_delivered(destinations, session, endpoint, certificate):
            _schedule(session, endpoint, certificate)
            _enqueue(queue, session, endpoint.name, _PAUSES[0])


def check_endpoint(services: Services, claim: Claim) -> None:
    """Perform the checks that are due at one endpoint; a job without an endpoint starts those of all endpoints."""
    name = claim.args.get("endpoint")
    if name is None:
        _start_checks(services, claim)
        return
    endpoint = services.endpoints.get(name)
    if endpoint is not None:
        with services.probes.slot() as free:
            if not free:
                raise Snooze(1.0, "waits for checks of other endpoints")
            _check_due(services.database, services.queue, services.probes, claim, endpoint)
        pause = _seconds_until_due(services.database, endpoint.name)
        if pause is not None and pause < SECONDS:
            raise Snooze(max(0.05, pause), "the next check is due soon")


def _check_due(database: Database, queue: Queue, probes: Probes, claim: Claim, endpoint: Endpoint) -> None:
    with database.read() as session:
        query = (
            select(EndpointCheck.lineage_id, EndpointCheck.certificate_id, Certificate.common_name)
            .join(Certificate, Certificate.id == EndpointCheck.certificate_id)
            .where(EndpointCheck.endpoint == endpoint.name, EndpointCheck.next_check_at <= db_now())
            .order_by(EndpointCheck.next_check_at)
            .limit(_CHECKS_PER_JOB)
        )
        due = [_Due(*row) for row in session.execute(query)]
    results_by_check = probes.probe(endpoint, [check.common_name for check in due])
    with queue.checkpoint(claim) as session:
        for check, results in sorted(zip(due, results_by_check, strict=True), key=lambda pair: pair[0].lineage_id):
            row = session.get(EndpointCheck, (check.lineage_id, endpoint.name), with_for_update=True)
            if row is not None and row.certificate_id == check.certificate_id:  # else a newer one was delivered since
                _record(session, endpoint, row, _evaluate(session, row, results))


def _record(session: Session, endpoint: Endpoint, row: EndpointCheck, outcome: _Outcome) -> None:
    now = read_now(session)
    row.last_checked_at, row.served_fingerprint, row.detail = now, outcome.fingerprint, outcome.detail
    if outcome.state is EndpointState.SERVED:
        row.attempts, row.deadline_at = 0, None
        row.next_check_at = now + timedelta(seconds=_DAY * random.uniform(0.9, 1.0))  # noqa: S311, spread over the day
        _change_state(session, endpoint, row, outcome, now)
        return
    if row.deadline_at is None:  # it was served until now
        row.deadline_at = now + timedelta(seconds=endpoint.grace_seconds)
    if now >= row.deadline_at and row.state != outcome.state:
        row.attempts = 0
        _change_state(session, endpoint, row, outcome, now)
    pauses = _PAUSES if now < row.deadline_at else _LATE_PAUSES
    row.next_check_at = now + timedelta(seconds=pauses[min(row.attempts, len(pauses) - 1)])
    if now < row.deadline_at:
        row.next_check_at = min(row.next_check_at, row.deadline_at)
    row.attempts += 1


def _change_state(session: Session, endpoint: Endpoint, row: EndpointCheck, outcome: _Outcome, now: datetime) -> None:
    if row.state == outcome.state:
        return
    row.state, row.since = outcome.state, now
    order_id = session.get_one(Certificate, row.certificate_id).order_id
    detail = f"{endpoint.name}: {outcome.detail}"
    record_step(session, outcome.state, detail, order_id=order_id, certificate_id=row.certificate_id)


def _evaluate(session: Session, row: EndpointCheck, results: Sequence[ProbeResult]) -> _Outcome:
    """The worst outcome of all addresses: a single server that has not reloaded makes the endpoint stale."""
    expected = session.get_one(Certificate, row.certificate_id)
    outcomes = [_evaluate_address(session, expected, result) for result in results]
    for state in (EndpointState.STALE, EndpointState.UNREACHABLE):
        bad = [outcome for outcome in outcomes if outcome.state == state]
        if bad:
            return _Outcome(state, "; ".join(outcome.detail for outcome in bad), bad[0].fingerprint)
    return _Outcome(EndpointState.SERVED, "; ".join(outcome.detail for outcome in outcomes), outcomes[0].fingerprint)


def _evaluate_address(session: Session, expected: Certificate, result: ProbeResult) -> _Outcome:
    if result.leaf is None:
        return _Outcome(EndpointState.UNREACHABLE, f"{result.address}: {result.error}", None)
    fingerprint = hashlib.sha256(result.leaf).hexdigest()
    if fingerprint == expected.fingerprint:
        return _Outcome(EndpointState.SERVED, f"{result.address} serves the certificate", fingerprint)
    served = session.scalar(select(Certificate).where(Certificate.fingerprint == fingerprint))
    if served is None:
        which = "a certificate that Certcourier did not install"
    elif served.lineage_id != expected.lineage_id:
        which = f"certificate {served.id} for {served.common_name}"
    elif recency(served) > recency(expected):
        return _Outcome(
            EndpointState.SERVED, f"{result.address} serves its successor, certificate {served.id}", fingerprint
        )
    else:
        which = f"the older certificate {served.id}"
    return _Outcome(EndpointState.STALE, f"{result.address} serves {which}, {_describe(result.leaf)}", fingerprint)


def _describe(leaf: bytes) -> str:
    try:
        found = x509.load_der_x509_certificate(leaf)
        serial, until = f"{found.serial_number:x}", f"{found.not_valid_after_utc:%Y-%m-%d %H:%M}"
        return f"serial {serial}, SHA-256 {found.fingerprint(hashes.SHA256()).hex()}, valid until {until} UTC"
    except ValueError:
        return f"which cannot be parsed, SHA-256 {hashlib.sha256(leaf).hexdigest()}"


def _seconds_until_due(database: Database, endpoint: str) -> float | None:
    with database.read() as session:
        soonest = session.scalar(
            select(func.min(EndpointCheck.next_check_at)).where(EndpointCheck.endpoint == endpoint)
        )
        return None if soonest is None else (soonest - read_now(session)).total_seconds()


def _start_checks(services: Services, claim: Claim) -> None:
    _load_endpoints(services, claim)
    with services.queue.finishing(claim) as session:
        for name in services.endpoints:
            due = exists().where(EndpointCheck.endpoint == name, EndpointCheck.next_check_at <= db_now())
            if session.scalar(select(due)):
                _enqueue(services.queue, session, name, 0.0)


def _enqueue(queue: Queue, session: Session, endpoint: str, delay: float) -> None:
    args = {"endpoint": endpoint}
    if not queue.enqueue(session, JobKind.CHECK_ENDPOINT, args, delay=delay):
        queue.expedite(session, [str(JobKind.CHECK_ENDPOINT.key_for(args))], delay=delay)


def _new_row(endpoint: Endpoint, certificate: Certificate, now: datetime) -> dict[str, Any]:
    return {
        "lineage_id": certificate.lineage_id,
        "endpoint": endpoint.name,
        "certificate_id": certificate.id,
        "state": EndpointState.UNVERIFIED,
        "since": now,
        "detail": None,
        "attempts": 0,
        "deadline_at": now + timedelta(seconds=endpoint.grace_seconds),
        "next_check_at": now + timedelta(seconds=_PAUSES[0]),
    }


def _schedule(session: Session, endpoint: Endpoint, certificate: Certificate) -> None:
    """Schedule a check for this certificate, unless the row is for a newer one."""
    new = _new_row(endpoint, certificate, read_now(session))
    if insert_once(session, EndpointCheck, **new):
        return
    row = session.get_one(EndpointCheck, (certificate.lineage_id, endpoint.name), with_for_update=True)
    known = session.get_one(Certificate, row.certificate_id)
    if recency(known) < recency(certificate):
        for field, value in new.items():
            setattr(row, field, value)
    elif known.id == certificate.id:
        row.next_check_at = new["next_check_at"]


def _is_delivered(
    destinations: Mapping[str, Destination], session: Session, endpoint: Endpoint, certificate: Certificate
) -> bool:
    where = Delivery.certificate_id == certificate.id, Delivery.state == DeliveryState.DELIVERED
    return _has_all(
        destinations, endpoint, certificate, set(session.scalars(select(Delivery.destination).where(*where)))
    )


def _has_all(
    destinations: Mapping[str, Destination], endpoint: Endpoint, certificate: Certificate, delivered: set[str]
) -> bool:
    """Whether every destination that the endpoint reads from holds the certificate."""
    names = {name for name, destination in destinations.items() if destination.config.takes(certificate.names)}
    needed = names & set(endpoint.after) if endpoint.after else names
    return bool(needed) and needed <= delivered


def _load_endpoints(services: Services, claim: Claim) -> None:
    """If the configured endpoints have changed: add rows for earlier deliveries and delete rows that no longer apply.

    If interrupted, it starts over.
    """
    configuration = "".join(endpoint.model_dump_json() for endpoint in services.endpoints.values())
    digest = hashlib.sha256(configuration.encode()).hexdigest()
    with services.database.read() as session:
        known = ENDPOINTS_DIGEST.get(session)
        if known == digest:
            return
        anything = known is not None or bool(services.endpoints)
    last = 0
    while anything:
        with services.queue.checkpoint(claim) as session:
            newest = _newest_delivered(session, last)
            _update_rows(services.destinations, services.endpoints, session, newest)
        if not newest:
            break
        last = newest[-1][0].id
    with services.queue.checkpoint(claim) as session:
        session.execute(delete(EndpointCheck).where(EndpointCheck.endpoint.not_in(list(services.endpoints))))
        ENDPOINTS_DIGEST.set(session, digest)
    log.info("endpoints loaded", endpoints=list(services.endpoints))


def _update_rows(
    destinations: Mapping[str, Destination],
    endpoints: Mapping[str, Endpoint],
    session: Session,
    newest: Sequence[tuple[Lineage, Certificate]],
) -> None:
    delivered: dict[int, set[str]] = {certificate.id: set() for _, certificate in newest}
    where = Delivery.certificate_id.in_(delivered), Delivery.state == DeliveryState.DELIVERED
    for certificate_id, destination in session.execute(
        select(Delivery.certificate_id, Delivery.destination).where(*where)
    ):
        delivered[certificate_id].add(destination)
    now = read_now(session)
    for endpoint in endpoints.values():
        rows, others = [], []
        for lineage, certificate in newest:
            if not endpoint.serves(lineage.name, certificate.names):
                others.append(lineage.id)
            elif _has_all(destinations, endpoint, certificate, delivered[certificate.id]):
                rows.append(_new_row(endpoint, certificate, now))
        insert_many_once(session, EndpointCheck, rows, "lineage_id")
        unwatched = EndpointCheck.endpoint == endpoint.name, EndpointCheck.lineage_id.in_(others)
        session.execute(delete(EndpointCheck).where(*unwatched))


def _newest_delivered(session: Session, after: int) -> list[tuple[Lineage, Certificate]]:
    """The newest certificates of the next lineages after this ID."""
    query = (
        select(Lineage, Certificate)
        .join(Certificate, Certificate.lineage_id == Lineage.id)
        .where(Lineage.id > after, newest_of_lineage())
        .order_by(Lineage.id)
        .limit(_BATCH)
    )
    return [(lineage, certificate) for lineage, certificate in session.execute(query)]
