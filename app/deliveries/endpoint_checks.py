"""From delivered to served: endpoints are looked at after a delivery, and daily, until the new leaf is seen there.

What is owed is in the table `endpoints_seen`, a row for each lineage and endpoint, with when to look again. One job for
each endpoint looks at what is due there; a periodic one starts those jobs, so nothing depends on one being kept alive.
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
from app.db.models import Certificate, Delivery, DeliveryState, EndpointCheck, Lineage
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
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # in the time of grace
_LATE_PAUSES = (60.0, 300.0, 900.0, 3600.0)  # when another certificate is served for longer than that
_DAY = 86400.0
_SOME = 20
_BATCH = 200


@dataclass(frozen=True, slots=True)
class _Due:
    """A row to look at, read before anybody is asked."""

    lineage_id: int
    certificate_id: int
    common_name: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was seen: the row's next state, and what to say of it. `fingerprint` is the leaf's SHA-256, if any."""

    state: str
    detail: str
    fingerprint: str | None


def enqueue_endpoint_check(
    queue: Queue,
    destinations: Mapping[str, Destination],
    endpoints: Mapping[str, Endpoint],
    session: Session,
    certificate: Certificate,
) -> None:
    """The certificate was delivered somewhere: look at each endpoint that has it now, in the caller's transaction."""
    if not endpoints or certificate.lineage_id is None:
        return
    # Two destinations may finish at once: the second one sees what the first one committed.
    lineage = session.get_one(Lineage, certificate.lineage_id, with_for_update=True)
    for endpoint in endpoints.values():
        watched = endpoint.watches(lineage.name, certificate.names)
        if watched and _is_delivered(destinations, session, endpoint, certificate):
            _arm(session, endpoint, certificate)
            _wake(queue, session, endpoint.name, _PAUSES[0])


def check_endpoint(services: Services, claim: Claim) -> None:
    """Look at what is due at one endpoint; without one among the arguments, see which endpoints have something due."""
    name = claim.args.get("endpoint")
    if name is None:
        _look_for_work(services, claim)
        return
    endpoint = services.endpoints.get(name)
    if endpoint is not None:
        with services.probes.place() as free:
            if not free:
                raise Snooze(1.0, "other endpoints are being looked at")
            _look(services.database, services.queue, services.probes, claim, endpoint)
        pause = _seconds_until_due(services.database, endpoint.name)
        if pause is not None and pause < SECONDS:
            raise Snooze(max(0.05, pause), "looks again")


def _look(database: Database, queue: Queue, probes: Probes, claim: Claim, endpoint: Endpoint) -> None:
    with database.read() as session:
        query = (
            select(EndpointCheck.lineage_id, EndpointCheck.certificate_id, Certificate.common_name)
            .join(Certificate, Certificate.id == EndpointCheck.certificate_id)
            .where(EndpointCheck.endpoint == endpoint.name, EndpointCheck.next_check_at <= db_now())
            .order_by(EndpointCheck.next_check_at)
            .limit(_SOME)
        )
        due = [_Due(*row) for row in session.execute(query)]
    seen = probes.look(endpoint, [one.common_name for one in due])
    with queue.checkpoint(claim) as session:
        for one, results in sorted(zip(due, seen, strict=True), key=lambda pair: pair[0].lineage_id):
            row = session.get(EndpointCheck, (one.lineage_id, endpoint.name), with_for_update=True)
            if row is not None and row.certificate_id == one.certificate_id:  # else a newer one was delivered meanwhile
                _note(session, endpoint, row, _judge(session, row, results))


def _note(session: Session, endpoint: Endpoint, row: EndpointCheck, verdict: _Verdict) -> None:
    now = read_now(session)
    row.last_checked_at, row.seen_fingerprint, row.detail = now, verdict.fingerprint, verdict.detail
    if verdict.state == "served":
        row.tries, row.deadline_at = 0, None
        row.next_check_at = now + timedelta(seconds=_DAY * random.uniform(0.9, 1.0))  # noqa: S311, spread over the day
        _change(session, endpoint, row, verdict, now)
        return
    if row.deadline_at is None:  # it was served until now
        row.deadline_at = now + timedelta(seconds=endpoint.grace_seconds)
    if now >= row.deadline_at and row.state != verdict.state:
        row.tries = 0
        _change(session, endpoint, row, verdict, now)
    pauses = _PAUSES if now < row.deadline_at else _LATE_PAUSES
    row.next_check_at = now + timedelta(seconds=pauses[min(row.tries, len(pauses) - 1)])
    if now < row.deadline_at:
        row.next_check_at = min(row.next_check_at, row.deadline_at)
    row.tries += 1


def _change(session: Session, endpoint: Endpoint, row: EndpointCheck, verdict: _Verdict, now: datetime) -> None:
    if row.state == verdict.state:
        return
    row.state, row.since = verdict.state, now
    order_id = session.get_one(Certificate, row.certificate_id).order_id
    detail = f"{endpoint.name}: {verdict.detail}"
    record_step(session, verdict.state, detail, order_id=order_id, certificate_id=row.certificate_id)  # type: ignore[arg-type]


def _judge(session: Session, row: EndpointCheck, results: Sequence[ProbeResult]) -> _Verdict:
    """The worst of what the addresses answered: one server that did not reload is one too many."""
    wanted = session.get_one(Certificate, row.certificate_id)
    verdicts = [_judge_one(session, wanted, result) for result in results]
    for state in ("stale", "unreachable"):
        bad = [verdict for verdict in verdicts if verdict.state == state]
        if bad:
            return _Verdict(state, "; ".join(verdict.detail for verdict in bad), bad[0].fingerprint)
    return _Verdict("served", "; ".join(verdict.detail for verdict in verdicts), verdicts[0].fingerprint)


def _judge_one(session: Session, wanted: Certificate, result: ProbeResult) -> _Verdict:
    if result.leaf is None:
        return _Verdict("unreachable", f"{result.address}: {result.problem}", None)
    fingerprint = hashlib.sha256(result.leaf).hexdigest()
    if fingerprint == wanted.fingerprint:
        return _Verdict("served", f"{result.address} serves it", fingerprint)
    ours = session.scalar(select(Certificate).where(Certificate.fingerprint == fingerprint))
    if ours is not None and ours.lineage_id == wanted.lineage_id and recency(ours) > recency(wanted):
        return _Verdict("served", f"{result.address} serves its successor, certificate {ours.id}", fingerprint)
    return _Verdict("stale", f"{result.address} serves {_whose(ours, wanted)}, {_describe(result.leaf)}", fingerprint)


def _whose(ours: Certificate | None, wanted: Certificate) -> str:
    if ours is None:
        return "a certificate that is not from here"
    if ours.lineage_id == wanted.lineage_id:
        return f"our older certificate {ours.id}"
    return f"our certificate {ours.id} for {ours.common_name}"


def _describe(leaf: bytes) -> str:
    try:
        found = x509.load_der_x509_certificate(leaf)
        serial, until = f"{found.serial_number:x}", f"{found.not_valid_after_utc:%Y-%m-%d %H:%M}"
        return f"serial {serial}, SHA-256 {found.fingerprint(hashes.SHA256()).hex()}, valid until {until} UTC"
    except ValueError:
        return f"which cannot be read, SHA-256 {hashlib.sha256(leaf).hexdigest()}"


def _seconds_until_due(database: Database, endpoint: str) -> float | None:
    with database.read() as session:
        soonest = session.scalar(
            select(func.min(EndpointCheck.next_check_at)).where(EndpointCheck.endpoint == endpoint)
        )
        return None if soonest is None else (soonest - read_now(session)).total_seconds()


def _look_for_work(services: Services, claim: Claim) -> None:
    _learn_endpoints(services, claim)
    with services.queue.finishing(claim) as session:
        for name in services.endpoints:
            due = exists().where(EndpointCheck.endpoint == name, EndpointCheck.next_check_at <= db_now())
            if session.scalar(select(due)):
                _wake(services.queue, session, name, 0.0)


def _wake(queue: Queue, session: Session, endpoint: str, delay: float) -> None:
    key = f"check_endpoint:{endpoint}"
    args = {"endpoint": endpoint}
    if not queue.enqueue(session, JobKind.CHECK_ENDPOINT, args, key=key, delay=delay):
        queue.expedite(session, [key], delay=delay)


def _fresh_row(endpoint: Endpoint, certificate: Certificate, now: datetime) -> dict[str, Any]:
    return {
        "lineage_id": certificate.lineage_id,
        "endpoint": endpoint.name,
        "certificate_id": certificate.id,
        "state": "delivered",
        "since": now,
        "detail": None,
        "tries": 0,
        "deadline_at": now + timedelta(seconds=endpoint.grace_seconds),
        "next_check_at": now + timedelta(seconds=_PAUSES[0]),
    }


def _arm(session: Session, endpoint: Endpoint, certificate: Certificate) -> None:
    """Have the endpoint looked at for this certificate, also where it has been looked at for it before."""
    fresh = _fresh_row(endpoint, certificate, read_now(session))
    if insert_once(session, EndpointCheck, **fresh):
        return
    row = session.get_one(EndpointCheck, (certificate.lineage_id, endpoint.name), with_for_update=True)
    known = session.get_one(Certificate, row.certificate_id)
    if recency(known) < recency(certificate):
        for field, value in fresh.items():
            setattr(row, field, value)
    elif known.id == certificate.id:
        row.next_check_at = fresh["next_check_at"]


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
    takers = {name for name, one in destinations.items() if one.config.takes(certificate.names)}
    needed = takers & set(endpoint.after) if endpoint.after else takers
    return bool(needed) and needed <= delivered


def _learn_endpoints(services: Services, claim: Claim) -> None:
    """When the endpoints in the file are others than before: rows for what was delivered already, and none for what
    is not watched any more. An interrupted walk begins again.
    """
    told = "".join(endpoint.model_dump_json() for endpoint in services.endpoints.values())
    digest = hashlib.sha256(told.encode()).hexdigest()
    with services.database.read() as session:
        known = ENDPOINTS_DIGEST.get(session)
        if known == digest:
            return
        anything = known is not None or bool(services.endpoints)
    last = 0
    while anything:
        with services.queue.checkpoint(claim) as session:
            newest = _newest_delivered(session, last)
            _match(services.destinations, services.endpoints, session, newest)
        if not newest:
            break
        last = newest[-1][0].id
    with services.queue.checkpoint(claim) as session:
        session.execute(delete(EndpointCheck).where(EndpointCheck.endpoint.not_in(list(services.endpoints))))
        ENDPOINTS_DIGEST.set(session, digest)
    log.info("endpoints learned", endpoints=list(services.endpoints))


def _match(
    destinations: Mapping[str, Destination],
    endpoints: Mapping[str, Endpoint],
    session: Session,
    newest: Sequence[tuple[Lineage, Certificate]],
) -> None:
    delivered: dict[int, set[str]] = {certificate.id: set() for _, certificate in newest}
    where = Delivery.certificate_id.in_(delivered), Delivery.state == DeliveryState.DELIVERED
    for number, destination in session.execute(select(Delivery.certificate_id, Delivery.destination).where(*where)):
        delivered[number].add(destination)
    now = read_now(session)
    for endpoint in endpoints.values():
        rows, others = [], []
        for lineage, certificate in newest:
            if not endpoint.watches(lineage.name, certificate.names):
                others.append(lineage.id)
            elif _has_all(destinations, endpoint, certificate, delivered[certificate.id]):
                rows.append(_fresh_row(endpoint, certificate, now))
        insert_many_once(session, EndpointCheck, rows, "lineage_id")
        unwatched = EndpointCheck.endpoint == endpoint.name, EndpointCheck.lineage_id.in_(others)
        session.execute(delete(EndpointCheck).where(*unwatched))


def _newest_delivered(session: Session, after: int) -> list[tuple[Lineage, Certificate]]:
    """For some lineages beyond `after`, by ID: the newest certificate that is installed."""
    query = (
        select(Lineage, Certificate)
        .join(Certificate, Certificate.lineage_id == Lineage.id)
        .where(Lineage.id > after, newest_of_lineage())
        .order_by(Lineage.id)
        .limit(_BATCH)
    )
    return [(lineage, certificate) for lineage, certificate in session.execute(query)]
