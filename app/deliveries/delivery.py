"""One certificate to one destination, retried on its own, never an older certificate over a newer one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_successor
from app.db.clock import read_now
from app.db.models import Certificate, Delivery, DeliveryState, Lineage
from app.db.upsert import insert_many_once, insert_once
from app.deliveries.endpoint_checks import enqueue_endpoint_check
from app.deliveries.hook_runs import delivery_key, places_before, run_coalesced_hook
from app.deliveries.suspension import refuse_if_suspended, suspend_if_gone
from app.destinations.base import (
    Bundle,
    DeliveryResult,
    Destination,
    DestinationRefusedError,
    PrivateKeyPem,
    SupportsHookRuns,
    Version,
)
from app.errors import CertcourierError
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Snooze
from app.services import Services
from app.timeline import record_step

# One that comes after another is started when that one ends; this is only how long it may look for itself meanwhile.
_LOOK_AGAIN_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)


def enqueue_delivery(services: Services, session: Session, certificate_id: int, destination: str) -> None:
    """Owe the certificate to the destination, in the caller's transaction."""
    args = {"certificate_id": certificate_id, "destination": destination}
    if not insert_once(session, Delivery, **args, state=DeliveryState.PENDING):
        _row(session, certificate_id, destination).state = DeliveryState.PENDING  # reissued under the same ID
    services.queue.enqueue(
        session,
        JobKind.DELIVER,
        args,
        delay=_LOOK_AGAIN_SECONDS[0] if _comes_after(services, destination) else 0.0,
    )


def enqueue_deliveries(
    services: Services, session: Session, certificate_ids: Iterable[int], destination: str
) -> list[str]:
    """The same for many certificates; returns the keys of their jobs."""
    jobs = {
        delivery_key(number, destination): {"certificate_id": number, "destination": destination}
        for number in certificate_ids
    }
    rows = [{**args, "state": DeliveryState.PENDING} for args in jobs.values()]
    insert_many_once(session, Delivery, rows, "certificate_id")
    services.queue.enqueue_many(session, JobKind.DELIVER, jobs)
    return list(jobs)


def deliver(services: Services, claim: Claim) -> None:
    """Carry it there. Raises the destination's errors; the delivery's row says why it waits."""
    certificate_id, name = int(claim.args["certificate_id"]), str(claim.args["destination"])
    with services.database.read() as session:
        certificate = session.get_one(Certificate, certificate_id)
        lineage = session.get_one(Lineage, certificate.lineage_id)
        outdated = newest_successor(session, certificate) is not None
    try:
        destination = _destination(services, name)
        if outdated:
            result = DeliveryResult("superseded", "a newer certificate of the lineage is installed")
        else:
            with services.database.read() as session:
                refuse_if_suspended(session, name)
            result = _wait_for_others(services, claim, destination) or _release(
                services, claim, destination, certificate, lineage
            )
    except Snooze as pause:
        with services.queue.checkpoint(claim) as session:
            _row(session, certificate_id, name).blocked_by = str(pause)
        raise
    except CertcourierError as error:
        with services.queue.checkpoint(claim) as session:
            row = _row(session, certificate_id, name)
            row.detail, row.blocked_by = str(error), None
            suspend_if_gone(session, name, error)
        raise
    with services.queue.finishing(claim) as session:
        row = _row(session, certificate_id, name)
        row.state, row.detail, row.blocked_by = DeliveryState(result.outcome), result.detail, None
        row.run_id = None
        if session.get_one(Certificate, certificate_id).fingerprint != certificate.fingerprint:
            enqueue_delivery(services, session, certificate_id, name)  # it was reissued under its ID meanwhile
            return
        row.delivered_at = read_now(session) if result.outcome == "delivered" else None
        detail = f"{name}: {result.detail}"
        record_step(session, result.outcome, detail, order_id=certificate.order_id, certificate_id=certificate_id)
        followers = [other for other in services.destinations if name in _comes_after(services, other)]
        if followers:
            services.queue.expedite(session, [delivery_key(certificate_id, follower) for follower in followers])
        if result.outcome == "delivered":
            enqueue_endpoint_check(services, session, certificate)
            _put_newer_back(services, session, certificate, name)


def delivery_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up: the delivery says so."""
    row = _row(session, int(claim.args["certificate_id"]), str(claim.args["destination"]))
    row.state, row.detail, row.blocked_by = DeliveryState.FAILED, error, None


def _put_newer_back(services: Services, session: Session, certificate: Certificate, destination: str) -> None:
    """A newer one was delivered while this one was: not every destination can tell who came last, so it goes again."""
    newer = newest_successor(session, certificate)
    if newer is not None:
        there = select(Delivery).filter_by(
            certificate_id=newer.id, destination=destination, state=DeliveryState.DELIVERED
        )
        if session.scalar(there.with_for_update()) is not None:
            enqueue_delivery(services, session, newer.id, destination)


def _comes_after(services: Services, name: str) -> tuple[str, ...]:
    return services.destinations[name].config.after if name in services.destinations else ()


def _wait_for_others(services: Services, claim: Claim, destination: Destination) -> DeliveryResult | None:
    """None when those that this destination comes after have the certificate; else the end, or `Postpone`."""
    certificate_id, after = int(claim.args["certificate_id"]), destination.config.after
    if not after:
        return None
    query = select(Delivery).where(Delivery.certificate_id == certificate_id, Delivery.destination.in_(after))
    with services.database.read() as session:
        states = {row.destination: row.state for row in session.scalars(query)}
    for name in after:
        match states.get(name):
            case DeliveryState.DELIVERED:
                continue
            case DeliveryState.SUPERSEDED:
                return DeliveryResult("superseded", f"{name} holds a newer certificate")
            case None:
                raise DestinationRefusedError(
                    f"{destination.config.name} comes after {name}, which this certificate is not delivered to; "
                    f"let `domains` of {name} take it too, deliver it there, and retry"
                )
            case state:
                pause = _LOOK_AGAIN_SECONDS[min(claim.snoozes, len(_LOOK_AGAIN_SECONDS) - 1)]
                raise Snooze(pause, f"waits for {name}, where this certificate is {state}")
    return None


def _release(
    services: Services, claim: Claim, destination: Destination, certificate: Certificate, lineage: Lineage
) -> DeliveryResult:
    if isinstance(destination, SupportsHookRuns) and destination.min_interval_seconds is not None:
        with services.database.read() as session:
            ours = select(Delivery.id).filter_by(certificate_id=certificate.id, destination=destination.config.name)
            delivery_id = session.scalars(ours).one()
        return run_coalesced_hook(services, claim, destination, delivery_id)
    bundle = _bundle(services, certificate, lineage, places_before(services, destination, lineage.name))
    return services.time_limits.run(destination, lambda: destination.deliver(bundle))


def _destination(services: Services, name: str) -> Destination:
    try:
        return services.destinations[name]
    except KeyError:
        raise DestinationRefusedError(
            f"no destination is named {name!r} any more; put it back into the destinations file and retry"
        ) from None


def _bundle(services: Services, certificate: Certificate, lineage: Lineage, places: Mapping[str, Path]) -> Bundle:
    if certificate.encrypted_key is None:
        raise DestinationRefusedError(
            f"the private key of certificate {certificate.id} is no longer stored (PRIVATE_KEY_RETENTION, or removed "
            "at DNSimple and KEEP_KEYS_REMOVED_AT_DNSIMPLE is off): run "
            f"`flask certificates refetch {certificate.id}`, or place a new order"
        )
    assert certificate.not_before is not None  # noqa: S101, committed together with the delivery
    return Bundle(
        slot=lineage.name,
        version=Version(certificate.not_before, certificate.id),
        names=tuple(certificate.names),
        fingerprint=certificate.fingerprint or "",
        leaf_pem=certificate.leaf_pem or "",
        chain_pem=certificate.chain_pem or "",
        key=PrivateKeyPem(services.encryptor.decrypt(certificate.encrypted_key, certificate_id=certificate.id)),
        common_name=certificate.common_name,
        places=places,
    )


def _row(session: Session, certificate_id: int, destination: str) -> Delivery:
    query = select(Delivery).filter_by(certificate_id=certificate_id, destination=destination)
    return session.scalars(query.with_for_update()).one()
