"""Deliveries by an operator's wish: tried again at once, or owed to a destination that was added or lost its files.

All of it is enqueued in small commits, so that nobody waits for it and a second run goes on where one was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, exists, func, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from app.certificates.delivering import want_delivered
from app.certificates.installing import want_installed
from app.errors import PermanentError
from app.services import Services
from app.storage.models import Certificate, Delivery, Job, Lineage
from app.storage.statements import insert_once

BATCH = 100
_UNFINISHED = ("pending", "failed")


@dataclass(frozen=True, slots=True)
class Wish:
    """Which certificates shall be delivered. `again`: also those that the destination has been given already."""

    destination: str
    lineage: str | None = None
    certificate_id: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of a batch of lineages."""

    looked_at: int
    owed: int


def list_deliveries(
    services: Services, *, state: str | None, destination: str | None, limit: int
) -> list[tuple[Delivery, str]]:
    """The newest deliveries with their lineages' names."""
    query = (
        select(Delivery, Lineage.name)
        .join(Certificate, Certificate.id == Delivery.certificate_id)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(*_filters(state, destination))
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    with services.database.read() as session:
        return [(delivery, lineage) for delivery, lineage in session.execute(query)]


def count_unfinished(
    services: Services, *, ids: Sequence[int] = (), state: str | None = None, destination: str | None = None
) -> int:
    """How many deliveries `retry` would go through."""
    with services.database.read() as session:
        wanted = _wanted(ids, state, destination)
        return session.scalar(select(func.count()).select_from(Delivery).where(*wanted)) or 0


def retry(
    services: Services, *, ids: Sequence[int] = (), state: str | None = None, destination: str | None = None
) -> Iterator[int]:
    """Let deliveries that failed or wait for their next attempt begin at once; yields how many, commit by commit."""
    last = 0
    while True:
        with services.database.write() as session:
            query = select(Delivery).where(*_wanted(ids, state, destination), Delivery.id > last)
            rows = session.scalars(query.order_by(Delivery.id).limit(BATCH).with_for_update()).all()
            for row in rows:
                _owe(services, session, row.certificate_id, row.destination)
        if not rows:
            return
        last = rows[-1].id
        yield len(rows)


def count_lineages(services: Services, wish: Wish) -> int:
    """How many lineages `redeliver` looks through. Raises `PermanentError` if the wish cannot be met."""
    if wish.destination not in services.destinations:
        known = ", ".join(services.destinations)
        raise PermanentError(f"no destination is named {wish.destination!r}; there are {known}")
    with services.database.read() as session:
        found = session.scalar(select(func.count()).select_from(Lineage).where(*_chosen(session, wish))) or 0
    if found == 0 and wish.lineage is not None:
        raise PermanentError(f"no lineage is named {wish.lineage!r}; `GET /certificates/<id>` shows the name")
    return found


def redeliver(services: Services, wish: Wish) -> Iterator[Progress]:
    """Owe the newest certificate of each lineage to the destination, where it has not been given it; commit by commit.

    Costs DNSimple no call, but for certificates whose private key is not on record any more: those are fetched again.
    """
    destination = services.destinations[wish.destination]
    last = 0
    while True:
        with services.database.write() as session:
            newest = _newest(session, wish, last)
            owed = 0
            for certificate in newest:
                if destination.config.takes(certificate.names) and _is_missing(session, certificate.id, wish):
                    _owe_certificate(services, session, certificate, wish.destination)
                    owed += 1
        if not newest:
            return
        last = newest[-1].lineage_id or 0
        yield Progress(len(newest), owed)


def _filters(state: str | None, destination: str | None) -> list[ColumnElement[bool]]:
    chosen = []
    if state is not None:
        chosen.append(Delivery.state == state)
    if destination is not None:
        chosen.append(Delivery.destination == destination)
    return chosen


def _wanted(ids: Sequence[int], state: str | None, destination: str | None) -> list[ColumnElement[bool]]:
    ours = [Delivery.id.in_(ids)] if ids else []
    return [Delivery.state.in_(_UNFINISHED), *ours, *_filters(state, destination)]


def _owe(services: Services, session: Session, certificate_id: int, destination: str) -> None:
    """The delivery's job begins now, afresh or early; one that was given up needs no attention any more."""
    given_up = update(Job).where(
        Job.kind == "deliver",
        Job.state == "dead",
        Job.args["certificate_id"].as_integer() == certificate_id,
        Job.args["destination"].as_string() == destination,
    )
    session.execute(given_up.values(state="cancelled"), execution_options={"synchronize_session": False})
    _pending(session, certificate_id, destination)
    want_delivered(services, session, certificate_id, destination)
    services.queue.hasten(session, [f"deliver:{certificate_id}:{destination}"])


def _pending(session: Session, certificate_id: int, destination: str) -> None:
    values = {"certificate_id": certificate_id, "destination": destination}
    if not insert_once(session, Delivery, **values, state="pending"):
        session.execute(update(Delivery).filter_by(**values).values(state="pending", detail=None))


def _owe_certificate(services: Services, session: Session, certificate: Certificate, destination: str) -> None:
    if certificate.sealed_key is None and certificate.domain_id is not None:
        _pending(session, certificate.id, destination)
        want_installed(services, session, certificate_id=certificate.id, domain_id=certificate.domain_id)
    else:
        _owe(services, session, certificate.id, destination)


def _is_missing(session: Session, certificate_id: int, wish: Wish) -> bool:
    query = select(Delivery.state).filter_by(certificate_id=certificate_id, destination=wish.destination)
    state = session.scalar(query)
    return state is None or state == "failed" or (wish.again and state != "pending")


def _chosen(session: Session, wish: Wish) -> list[ColumnElement[bool]]:
    if wish.lineage is not None:
        return [Lineage.name == wish.lineage]
    if wish.certificate_id is None:
        return []
    certificate = session.get(Certificate, wish.certificate_id)
    if certificate is None or certificate.lineage_id is None:
        raise PermanentError(f"no certificate with the ID {wish.certificate_id} is installed; `GET /certificates`")
    newest = session.scalars(_newest_of(Certificate.lineage_id == certificate.lineage_id)).one()
    if newest.id != certificate.id:
        raise PermanentError(
            f"certificate {certificate.id} has been replaced by {newest.id}, and an older one is never delivered "
            f"over a newer one; name {newest.id}"
        )
    return [Lineage.id == certificate.lineage_id]


def _newest(session: Session, wish: Wish, after: int) -> list[Certificate]:
    """The newest installed certificates of some of the lineages beyond `after`."""
    query = _newest_of(*_chosen(session, wish), Lineage.id > after)
    return list(session.scalars(query.order_by(Lineage.id).limit(BATCH)))


def _newest_of(*where: ColumnElement[bool]) -> Select[Certificate]:
    newer = aliased(Certificate)
    has_newer = exists().where(
        newer.lineage_id == Certificate.lineage_id,
        newer.installed_at.is_not(None),
        tuple_(newer.not_before, newer.id) > tuple_(Certificate.not_before, Certificate.id),
    )
    return (
        select(Certificate)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(Certificate.installed_at.is_not(None), ~has_newer, *where)
    )
