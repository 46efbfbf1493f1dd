"""The delivery of one certificate to one destination: retried independently, never an older one over a newer one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_successor
from app.crypto.private_key_store import PrivateKeyStore
from app.db.clock import read_now
from app.db.database import Database
from app.db.models import Certificate, Delivery, DeliveryState, Lineage
from app.db.upsert import insert_many_once, insert_once
from app.deliveries.endpoint_checks import enqueue_endpoint_check
from app.deliveries.hook_runs import delivery_key, dependency_places, run_coalesced_hook
from app.deliveries.suspension import refuse_if_suspended, suspend_if_gone
from app.destinations.base import (
    Bundle,
    DeliveryResult,
    Destination,
    DestinationRefusedError,
    SupportsHookRuns,
    Version,
)
from app.errors import CertcourierError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, LeaseLostError, Queue, Snooze
from app.services import Services
from app.timeline import record_step

# A delivery with dependencies is started when the last of them finishes; these checks are the fallback.
_DEPENDENCY_CHECK_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)


def enqueue_delivery(
    queue: Queue, destinations: Mapping[str, Destination], session: Session, certificate_id: int, destination: str
) -> None:
    """Enqueue the certificate's delivery to the destination, in the caller's transaction."""
    args = {"certificate_id": certificate_id, "destination": destination}
    if not insert_once(session, Delivery, **args, state=DeliveryState.PENDING):
        row = _row(session, certificate_id, destination)
        row.state, row.detail = DeliveryState.PENDING, None
    queue.enqueue(
        session,
        JobKind.DELIVER,
        args,
        delay=_DEPENDENCY_CHECK_SECONDS[0] if _dependencies(destinations, destination) else 0.0,
    )


def enqueue_deliveries(queue: Queue, session: Session, certificate_ids: Iterable[int], destination: str) -> list[str]:
    """The same for many certificates; returns the keys of their jobs."""
    jobs = {
        delivery_key(certificate_id, destination): {"certificate_id": certificate_id, "destination": destination}
        for certificate_id in certificate_ids
    }
    rows = [{**args, "state": DeliveryState.PENDING} for args in jobs.values()]
    insert_many_once(session, Delivery, rows, "certificate_id")
    queue.enqueue_many(session, JobKind.DELIVER, jobs)
    return list(jobs)


def deliver(services: Services, claim: Claim) -> None:
    """Deliver the certificate, and record the result. Raises the destination's errors after recording them."""
    certificate_id, name = int(claim.args["certificate_id"]), str(claim.args["destination"])
    with services.database.read() as session:
        certificate = session.get_one(Certificate, certificate_id)
    try:
        result = _attempt(services, claim, certificate, name)
        state = DeliveryState(result.outcome)
    except LeaseLostError:
        raise
    except Snooze as snooze:
        with services.queue.checkpoint(claim) as session:
            _row(session, certificate_id, name).blocked_by = str(snooze)
        raise
    except Exception as error:
        with services.queue.checkpoint(claim) as session:
            row = _row(session, certificate_id, name)
            row.state, row.detail, row.blocked_by = DeliveryState.FAILING, _describe(error), None
            suspend_if_gone(session, name, error)
        raise
    with services.queue.finishing(claim) as session:
        row = _row(session, certificate_id, name)
        row.state, row.detail, row.blocked_by, row.run_id = state, result.detail, None, None
        if session.get_one(Certificate, certificate_id).fingerprint != certificate.fingerprint:
            enqueue_delivery(
                services.queue, services.destinations, session, certificate_id, name
            )  # it was reissued under its ID meanwhile
            return
        is_delivered = state is DeliveryState.DELIVERED
        row.delivered_at = read_now(session) if is_delivered else None
        detail = f"{name}: {result.detail}"
        record_step(session, result.outcome, detail, order_id=certificate.order_id, certificate_id=certificate_id)
        dependents = [other for other in services.destinations if name in _dependencies(services.destinations, other)]
        if dependents:
            services.queue.expedite(session, [delivery_key(certificate_id, dependent) for dependent in dependents])
        if is_delivered:
            enqueue_endpoint_check(services.queue, services.destinations, services.endpoints, session, certificate)
            _redeliver_newer(services.queue, services.destinations, session, certificate, name)


def _attempt(services: Services, claim: Claim, certificate: Certificate, name: str) -> DeliveryResult:
    if name not in services.destinations:
        raise DestinationRefusedError(
            f"destination {name!r} is no longer configured; restore it in the destinations file and retry"
        )
    destination = services.destinations[name]
    with services.database.read() as session:
        if newest_successor(session, certificate) is not None:
            return DeliveryResult("superseded", "a newer certificate of the lineage exists")
        refuse_if_suspended(session, name)
        lineage = session.get_one(Lineage, certificate.lineage_id)
    result = _wait_for_dependencies(services.database, claim, destination)
    if result is not None:
        return result
    if isinstance(destination, SupportsHookRuns) and destination.min_interval_seconds is not None:
        return run_coalesced_hook(services, claim, destination, certificate.id)
    bundle = _bundle(
        services.private_keys, certificate, lineage, dependency_places(services.destinations, destination, lineage.name)
    )
    return services.time_limits.run(destination, lambda: destination.deliver(bundle))


def _describe(error: Exception) -> str:
    if isinstance(error, CertcourierError):
        return str(error)
    if isinstance(error, SQLAlchemyError):  # its text holds statements and values
        return f"database error: {type(error).__name__}"
    return f"unexpected error: {type(error).__name__}: {error}"


def delivery_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """Mark the delivery as failed permanently."""
    row = _row(session, int(claim.args["certificate_id"]), str(claim.args["destination"]))
    row.state, row.detail, row.blocked_by = DeliveryState.FAILED, error, None


def _redeliver_newer(
    queue: Queue, destinations: Mapping[str, Destination], session: Session, certificate: Certificate, destination: str
) -> None:
    """Repeat the delivery of a newer certificate that was delivered while this one was.

    Not every destination can tell which of the two was written last.
    """
    newer = newest_successor(session, certificate)
    if newer is not None:
        delivered = select(Delivery).filter_by(
            certificate_id=newer.id, destination=destination, state=DeliveryState.DELIVERED
        )
        if session.scalar(delivered.with_for_update()) is not None:
            enqueue_delivery(queue, destinations, session, newer.id, destination)


def _dependencies(destinations: Mapping[str, Destination], name: str) -> tuple[str, ...]:
    return destinations[name].config.after if name in destinations else ()


def _wait_for_dependencies(database: Database, claim: Claim, destination: Destination) -> DeliveryResult | None:
    """None if all destinations in `after` hold the certificate; "superseded" if one holds a newer one.

    Raises `Snooze` while one of them is not finished.
    """
    certificate_id, after = int(claim.args["certificate_id"]), destination.config.after
    if not after:
        return None
    query = select(Delivery).where(Delivery.certificate_id == certificate_id, Delivery.destination.in_(after))
    with database.read() as session:
        states = {row.destination: row.state for row in session.scalars(query)}
    for name in after:
        match states.get(name):
            case DeliveryState.DELIVERED:
                continue
            case DeliveryState.SUPERSEDED:
                return DeliveryResult("superseded", f"{name} holds a newer certificate")
            case None:
                raise DestinationRefusedError(
                    f"{destination.config.name} comes after {name}, but this certificate is not delivered to {name}; "
                    f"add its names to `domains` of {name}, redeliver it there, and retry"
                )
            case state:
                pause = _DEPENDENCY_CHECK_SECONDS[min(claim.snoozes, len(_DEPENDENCY_CHECK_SECONDS) - 1)]
                raise Snooze(pause, f"waits for {name}, where this certificate is {state}")
    return None


def _bundle(
    private_keys: PrivateKeyStore, certificate: Certificate, lineage: Lineage, places: Mapping[str, Path]
) -> Bundle:
    assert certificate.not_before is not None  # noqa: S101, committed together with the delivery
    return Bundle(
        slot=lineage.name,
        version=Version(certificate.not_before, certificate.id),
        names=tuple(certificate.names),
        fingerprint=certificate.fingerprint or "",
        leaf_pem=certificate.leaf_pem or "",
        chain_pem=certificate.chain_pem or "",
        key=private_keys.load(certificate),
        common_name=certificate.common_name,
        places=places,
    )


def _row(session: Session, certificate_id: int, destination: str) -> Delivery:
    query = select(Delivery).filter_by(certificate_id=certificate_id, destination=destination)
    return session.scalars(query.with_for_update()).one()
