"""One certificate to one destination, retried on its own, never an older certificate over a newer one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_successor
from app.db.clock import read_now
from app.db.models import Certificate, Delivery, Lineage
from app.db.upsert import insert_many_once, insert_once
from app.deliveries.endpoint_checks import want_proven
from app.deliveries.hook_runs import job_key, places_before, share_run
from app.deliveries.suspension import disable_if_gone, refuse_if_disabled
from app.destinations.base import (
    Bundle,
    Destination,
    DestinationRefusedError,
    PrivateKeyPem,
    Receipt,
    SharesRuns,
    Version,
)
from app.errors import CertcourierError
from app.jobs.queue import Claim, Postpone
from app.services import Services
from app.timeline import tell

# With pauses of up to an hour: about two days.
_MOST_ATTEMPTS = 56
# One that comes after another is started when that one ends; this is only how long it may look for itself meanwhile.
_LOOK_AGAIN_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)


def want_delivered(services: Services, session: Session, certificate_id: int, destination: str) -> None:
    """Owe the certificate to the destination, in the caller's transaction."""
    if not insert_once(session, Delivery, certificate_id=certificate_id, destination=destination, state="pending"):
        _row(session, certificate_id, destination).state = "pending"  # another certificate under the same ID
    services.queue.enqueue(
        session,
        "deliver",
        {"certificate_id": certificate_id, "destination": destination},
        key=job_key(certificate_id, destination),
        delay=_LOOK_AGAIN_SECONDS[0] if _comes_after(services, destination) else 0.0,
        max_attempts=_MOST_ATTEMPTS,
    )


def want_many_delivered(
    services: Services, session: Session, certificate_ids: Iterable[int], destination: str
) -> list[str]:
    """The same for many certificates; returns the keys of their jobs."""
    jobs = {
        f"deliver:{number}:{destination}": {"certificate_id": number, "destination": destination}
        for number in certificate_ids
    }
    rows = [{**args, "state": "pending"} for args in jobs.values()]
    insert_many_once(session, Delivery, rows, "certificate_id")
    services.queue.enqueue_many(session, "deliver", jobs, max_attempts=_MOST_ATTEMPTS)
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
            receipt = Receipt("superseded", "a newer certificate of the lineage is installed")
        else:
            with services.database.read() as session:
                refuse_if_disabled(session, name)
            receipt = _wait_for_others(services, claim, destination) or _hand_over(
                services, claim, destination, certificate, lineage
            )
    except Postpone as pause:
        with services.queue.checkpoint(claim) as session:
            _row(session, certificate_id, name).waits_for = str(pause)
        raise
    except CertcourierError as error:
        with services.queue.checkpoint(claim) as session:
            row = _row(session, certificate_id, name)
            row.detail, row.waits_for = str(error), None
            disable_if_gone(session, name, error)
        raise
    with services.queue.finishing(claim) as session:
        row = _row(session, certificate_id, name)
        row.state, row.detail, row.waits_for, row.run_id = receipt.outcome, receipt.detail, None, None
        if session.get_one(Certificate, certificate_id).fingerprint != certificate.fingerprint:
            want_delivered(services, session, certificate_id, name)  # it was reissued under its ID meanwhile
            return
        row.delivered_at = read_now(session) if receipt.outcome == "delivered" else None
        detail = f"{name}: {receipt.detail}"
        tell(session, receipt.outcome, detail, order_id=certificate.order_id, certificate_id=certificate_id)
        followers = [other for other in services.destinations if name in _comes_after(services, other)]
        if followers:
            services.queue.hasten(session, [job_key(certificate_id, follower) for follower in followers])
        if receipt.outcome == "delivered":
            want_proven(services, session, certificate)
            _put_newer_back(services, session, certificate, name)


def delivery_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up: the delivery says so."""
    row = _row(session, int(claim.args["certificate_id"]), str(claim.args["destination"]))
    row.state, row.detail, row.waits_for = "failed", error, None


def _put_newer_back(services: Services, session: Session, certificate: Certificate, destination: str) -> None:
    """A newer one was delivered while this one was: not every destination can tell who came last, so it goes again."""
    newer = newest_successor(session, certificate)
    if newer is not None:
        there = select(Delivery).filter_by(certificate_id=newer.id, destination=destination, state="delivered")
        if session.scalar(there.with_for_update()) is not None:
            want_delivered(services, session, newer.id, destination)


def _comes_after(services: Services, name: str) -> tuple[str, ...]:
    return services.destinations[name].config.after if name in services.destinations else ()


def _wait_for_others(services: Services, claim: Claim, destination: Destination) -> Receipt | None:
    """None when those that this destination comes after have the certificate; else the end, or `Postpone`."""
    certificate_id, after = int(claim.args["certificate_id"]), destination.config.after
    if not after:
        return None
    query = select(Delivery).where(Delivery.certificate_id == certificate_id, Delivery.destination.in_(after))
    with services.database.read() as session:
        states = {row.destination: row.state for row in session.scalars(query)}
    for name in after:
        match states.get(name):
            case "delivered":
                continue
            case "superseded":
                return Receipt("superseded", f"{name} holds a newer certificate")
            case None:
                raise DestinationRefusedError(
                    f"{destination.config.name} comes after {name}, which this certificate is not delivered to; "
                    f"let `domains` of {name} take it too, deliver it there, and retry"
                )
            case state:
                pause = _LOOK_AGAIN_SECONDS[min(claim.postponed, len(_LOOK_AGAIN_SECONDS) - 1)]
                raise Postpone(pause, f"waits for {name}, where this certificate is {state}")
    return None


def _hand_over(
    services: Services, claim: Claim, destination: Destination, certificate: Certificate, lineage: Lineage
) -> Receipt:
    if isinstance(destination, SharesRuns) and destination.pause_seconds is not None:
        with services.database.read() as session:
            ours = select(Delivery.id).filter_by(certificate_id=certificate.id, destination=destination.config.name)
            delivery_id = session.scalars(ours).one()
        return share_run(services, claim, destination, delivery_id)
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
    if certificate.sealed_key is None:
        raise DestinationRefusedError(
            f"the private key of certificate {certificate.id} is not kept any more (KEEP_PRIVATE_KEYS, or removed at "
            f"DNSimple and KEEP_REMOVED_KEYS): run `flask certificates refetch {certificate.id}`, or order anew"
        )
    assert certificate.not_before is not None  # noqa: S101, committed together with the delivery
    return Bundle(
        slot=lineage.name,
        version=Version(certificate.not_before, certificate.id),
        names=tuple(certificate.names),
        fingerprint=certificate.fingerprint or "",
        leaf_pem=certificate.leaf_pem or "",
        chain_pem=certificate.chain_pem or "",
        key=PrivateKeyPem(services.sealer.open(certificate.sealed_key, certificate_id=certificate.id)),
        common_name=certificate.common_name,
        places=places,
    )


def _row(session: Session, certificate_id: int, destination: str) -> Delivery:
    query = select(Delivery).filter_by(certificate_id=certificate_id, destination=destination)
    return session.scalars(query.with_for_update()).one()
