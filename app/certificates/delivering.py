"""One certificate to one destination, retried on its own, never an older certificate over a newer one."""

from __future__ import annotations

from sqlalchemy import exists, select, tuple_
from sqlalchemy.orm import Session

from app.certificates.story import tell
from app.destinations.base import (
    Bundle,
    Destination,
    DestinationRefusedError,
    PrivateKeyPem,
    Receipt,
    Version,
)
from app.errors import CertcourierError
from app.jobs.queue import Claim
from app.services import Services
from app.storage.clock import read_now
from app.storage.models import Certificate, Delivery, Lineage
from app.storage.statements import insert_once

# With pauses of up to an hour: about two days.
_MOST_ATTEMPTS = 56


def want_delivered(services: Services, session: Session, certificate_id: int, destination: str) -> None:
    """Owe the certificate to the destination, in the caller's transaction."""
    if not insert_once(session, Delivery, certificate_id=certificate_id, destination=destination, state="pending"):
        _row(session, certificate_id, destination).state = "pending"  # another certificate under the same ID
    services.queue.enqueue(
        session,
        "deliver",
        {"certificate_id": certificate_id, "destination": destination},
        key=f"deliver:{certificate_id}:{destination}",
        max_attempts=_MOST_ATTEMPTS,
    )


def deliver(services: Services, claim: Claim) -> None:
    """Carry it there. Raises the destination's errors; the delivery's row says why it waits."""
    certificate_id, name = int(claim.args["certificate_id"]), str(claim.args["destination"])
    with services.database.read() as session:
        certificate = session.get_one(Certificate, certificate_id)
        lineage = session.get_one(Lineage, certificate.lineage_id)
        outdated = _has_newer(session, certificate)
    try:
        destination = _destination(services, name)
        if outdated:
            receipt = Receipt("superseded", "a newer certificate of the lineage is installed")
        else:
            bundle = _bundle(services, certificate, lineage)
            receipt = services.time_limits.run(destination, lambda: destination.deliver(bundle))
    except CertcourierError as error:
        with services.queue.checkpoint(claim) as session:
            _row(session, certificate_id, name).detail = str(error)
        raise
    with services.queue.finishing(claim) as session:
        row = _row(session, certificate_id, name)
        row.state, row.detail = receipt.outcome, receipt.detail
        row.delivered_at = read_now(session) if receipt.outcome == "delivered" else None
        detail = f"{name}: {receipt.detail}"
        tell(session, receipt.outcome, detail, order_id=certificate.order_id, certificate_id=certificate_id)


def delivery_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up: the delivery says so."""
    row = _row(session, int(claim.args["certificate_id"]), str(claim.args["destination"]))
    row.state, row.detail = "failed", error


def _destination(services: Services, name: str) -> Destination:
    try:
        return services.destinations[name]
    except KeyError:
        raise DestinationRefusedError(
            f"no destination is named {name!r} any more; put it back into the destinations file and retry"
        ) from None


def _has_newer(session: Session, certificate: Certificate) -> bool:
    newer = exists().where(
        Certificate.lineage_id == certificate.lineage_id,
        Certificate.installed_at.is_not(None),
        tuple_(Certificate.not_before, Certificate.id) > tuple_(certificate.not_before, certificate.id),
    )
    return bool(session.scalar(select(newer)))


def _bundle(services: Services, certificate: Certificate, lineage: Lineage) -> Bundle:
    if certificate.sealed_key is None:
        raise DestinationRefusedError(
            f"the private key of certificate {certificate.id} was removed at DNSimple, and here because of "
            "KEEP_REMOVED_KEYS; order the certificate anew"
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
    )


def _row(session: Session, certificate_id: int, destination: str) -> Delivery:
    query = select(Delivery).filter_by(certificate_id=certificate_id, destination=destination)
    return session.scalars(query.with_for_update()).one()
