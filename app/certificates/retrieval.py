"""A certificate that is issued: downloaded by its ID, verified, sealed, and owed to every destination.

Two calls to DNSimple, however often and by whomever we were told of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.certificates.verification import VerificationError, VerifiedCertificate, verify
from app.crypto.keyring import encryption_key_id
from app.db.clock import db_now, read_now
from app.db.models import Certificate, Domain, Job, Lineage, Order, OrderState
from app.db.upsert import changed_rows, insert_once
from app.deliveries.delivery import enqueue_delivery
from app.dnsimple.adapter import PrivateKey, Purpose
from app.dnsimple.errors import NotFoundError, NotIssuedYetError
from app.domain_names import digest_names
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Snooze
from app.operations.job_retry import POLLS_ARG
from app.orders.failures import fail_order
from app.services import Services
from app.timeline import record_event_step, record_step

log = structlog.get_logger("certcourier")

# 428 can still come for a while after `issued` (contract, section 2.4). About three hours in all, and not much longer
# when the pauses were: a certificate of six days has no week for it.
_NOT_YET_PAUSES = (2, 4, 8, 15, 30, 60, 120, 300, 600)
_NOT_YET_MOST = 25
# One that only an event has told us of waits for a part of each hour's calls: about three days.
_UNKNOWN_MOST = 72
_NOT_YET_FEWEST = 5
_NOT_YET_LONGEST = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A certificate that we were told of, by which event if by one. `again`: it is another one under the same ID."""

    certificate_id: int
    domain_id: int
    event_id: str | None = None
    # DNSimple itself has told us: it is no stranger's invention.
    seen: bool = False
    again: bool = False

    @property
    def key(self) -> str:
        """One job at a time has it."""
        return f"{'reissue' if self.again else 'fetch_certificate'}:{self.domain_id}:{self.certificate_id}"


@dataclass(frozen=True, slots=True)
class _Target:
    """Which certificate to fetch. `reference`, the domain's name or ID, goes into the path of the question, so that
    DNSimple itself checks that they belong together.
    """

    certificate_id: int
    domain: str
    domain_id: int
    reference: str | int
    order: Order | None
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What is to be put on record; the private key is sealed in that transaction."""

    target: _Target
    verified: VerifiedCertificate
    key: PrivateKey


def enqueue_fetch(
    services: Services, session: Session, *, certificate_id: int, domain_id: int, event_id: str | None = None
) -> None:
    """Enqueue the installation in the caller's transaction; one at a time for a certificate.

    DNSimple has told us of it. A job that waits for the quota of unknown certificates waits no more.
    """
    wanted = FetchRequest(certificate_id, domain_id, event_id, seen=True)
    waiting = update(Job).where(Job.key == wanted.key, Job.state == "ready", Job.kind == JobKind.FETCH_CERTIFICATE)
    again = {"args": asdict(wanted), "run_at": db_now()}
    if not changed_rows(session.execute(waiting.values(**again))):
        enqueue_fetches(services, session, [wanted])


def enqueue_fetches(services: Services, session: Session, wanted: Iterable[FetchRequest]) -> None:
    """The same for many certificates."""
    services.queue.enqueue_many(session, JobKind.FETCH_CERTIFICATE, {one.key: asdict(one) for one in wanted})


def fetch_certificate(services: Services, claim: Claim) -> None:
    """Fetch, verify, seal and commit one certificate; do nothing if that has been done or it is not ours.

    Raises `VerificationError` when it must not be used, `Postpone` while DNSimple does not hand it out yet.
    """
    target = _target(services, claim)
    if target is None:
        return
    if target.purpose is Purpose.UNKNOWN and claim.snoozes > _UNKNOWN_MOST:
        _ignore(claim, "no call was left for it in days; if it exists, it is found by looking")
        return
    try:
        with services.dnsimple.with_purpose(target.purpose).reserve(2) as dnsimple:
            download = dnsimple.download(target.reference, target.certificate_id)
            key = dnsimple.private_key(target.reference, target.certificate_id)
    except NotIssuedYetError as error:
        raise _not_yet(services, claim, error) from error
    except NotFoundError as error:
        if target.order is not None and target.reference == target.domain:
            raise
        _ignore(claim, str(error))
        return
    with services.database.read() as session:
        now = read_now(session)
    verified = verify(
        download.server,
        download.chain,
        key.pem,
        now=now,
        must_cover=target.order.names if target.order else (),
    )
    with services.queue.finishing(claim) as session:
        _record(services, session, claim, _Fetched(target, verified, key))


def fetch_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up: the order that it belonged to says so.

    The event of an older certificate of these names may have been lost, and that one be good: the domain is looked at
    again soon.
    """
    session.execute(update(Domain).where(Domain.id == int(claim.args["domain_id"])).values(last_checked_at=None))
    certificate = session.get(Certificate, int(claim.args["certificate_id"]))
    order = session.get(Order, certificate.order_id) if certificate and certificate.order_id else None
    if order is not None and order.state in {OrderState.PENDING, OrderState.ISSUED}:
        title = "The certificate could not be installed"
        fail_order(session, order, {"type": "installation-failed", "title": title, "detail": error})


def _not_yet(services: Services, claim: Claim, error: NotIssuedYetError) -> Snooze | VerificationError:
    """Another look after a growing pause, or never again. Only these answers count: a wait for the quota does not."""
    looks = int(claim.args.get(POLLS_ARG, 0))
    with services.queue.checkpoint(claim) as session:
        job = session.get_one(Job, claim.id)
        age = read_now(session) - job.created_at
        job.args = {**claim.args, POLLS_ARG: looks + 1}
    if looks >= (_NOT_YET_FEWEST if age > _NOT_YET_LONGEST else _NOT_YET_MOST):
        return VerificationError(f"{error}: DNSimple still does not hand it out after some hours")
    return Snooze(_NOT_YET_PAUSES[min(looks, len(_NOT_YET_PAUSES) - 1)], str(error))


def _target(services: Services, claim: Claim) -> _Target | None:
    certificate_id, domain_id = int(claim.args["certificate_id"]), int(claim.args["domain_id"])
    with services.database.read() as session:
        known = session.get(Certificate, certificate_id)
        order = session.get(Order, known.order_id) if known and known.order_id else None
        domain = session.get(Domain, domain_id)
    if known is not None:
        if known.fetched_at is not None and not claim.args.get("again"):
            return None
        if known.domain_id not in {None, domain_id}:
            log.warning("event names another domain", certificate_id=certificate_id, domain_id=domain_id)
            return None
        somebody_waits = order is not None and order.renews_certificate_id is None
        purpose = Purpose.INTERACTIVE if somebody_waits else Purpose.BACKGROUND
        if known.fetched_at is not None:  # reissued, says an event
            purpose = Purpose.REPEATED
        # Before DNSimple's answer to our order has told us the domain's ID, the event's word for it has to be checked.
        reference = known.domain if known.domain_id else domain_id
        return _Target(certificate_id, known.domain, domain_id, reference, order, purpose)
    if domain is None:
        domain = _learn_domain(services, domain_id)
    purpose = Purpose.BACKGROUND if claim.args.get("seen") else Purpose.UNKNOWN
    return _Target(certificate_id, domain.name, domain.id, domain.name, None, purpose) if domain else None


def _learn_domain(services: Services, domain_id: int) -> Domain | None:
    """Ask DNSimple once which domain an unknown ID is."""
    try:
        remote = services.dnsimple.with_purpose(Purpose.UNKNOWN).domain(domain_id)
    except NotFoundError:
        log.warning("event names a domain that is not in the account", domain_id=domain_id)
        return None
    domain = Domain(id=remote.id, account_id=services.account_id, name=remote.name.lower())
    with services.database.write() as session:
        insert_once(session, Domain, id=domain.id, account_id=domain.account_id, name=domain.name)
    return domain


def _ignore(claim: Claim, reason: str) -> None:
    log.warning("event ignored", reason=reason, certificate_id=claim.args["certificate_id"])


def _record(services: Services, session: Session, claim: Claim, fetched: _Fetched) -> None:
    target, verified = fetched.target, fetched.verified
    # It is looked at from now on, should an event get lost.
    insert_once(session, Domain, id=target.domain_id, account_id=services.account_id, name=target.domain)
    insert_once(
        session,
        Certificate,
        id=target.certificate_id,
        account_id=services.account_id,
        domain=target.domain,
        domain_id=target.domain_id,
        state="issued",
        common_name=verified.common_name,
        names=list(verified.names),
    )
    certificate = session.get_one(Certificate, target.certificate_id, with_for_update=True)
    if certificate.fetched_at is not None and certificate.fingerprint == verified.fingerprint:
        return  # another event's job was faster
    certificate.lineage_id = _lineage(session, services.account_id, target.domain, verified).id
    certificate.domain_id = target.domain_id
    certificate.state = "issued"
    certificate.common_name = verified.common_name
    certificate.names = list(verified.names)
    certificate.serial = verified.serial
    certificate.fingerprint = verified.fingerprint
    certificate.key_algorithm = verified.key_algorithm
    certificate.not_before = verified.not_before
    certificate.not_after = verified.not_after
    certificate.leaf_pem = verified.leaf_pem
    certificate.chain_pem = verified.chain_pem
    certificate.encrypted_key = services.encryptor.encrypt(
        fetched.key.pem, certificate_id=certificate.id, under=encryption_key_id(session)
    )
    certificate.fetched_at = read_now(session)
    _tell(session, claim, certificate)
    if certificate.order_id is not None:
        order = session.get_one(Order, certificate.order_id, with_for_update=True)
        order.state, order.in_flight_key, order.failure = OrderState.FETCHED, None, None
    for name, destination in services.destinations.items():
        if destination.config.takes(certificate.names):
            enqueue_delivery(services, session, certificate.id, name)


def _tell(session: Session, claim: Claim, certificate: Certificate) -> None:
    order_id, number, names = certificate.order_id, certificate.id, ", ".join(certificate.names)
    record_event_step(session, claim.args.get("event_id"), order_id=order_id, certificate_id=number)
    detail = "certificate, chain and private key, by ID"
    record_step(session, "downloaded", detail, order_id=order_id, certificate_id=number)
    until = f"until {certificate.not_after:%Y-%m-%d}"
    detail = f"{names}; {certificate.key_algorithm}; {until}; key fits, chain links up"
    record_step(session, "verified", detail, order_id=order_id, certificate_id=number)


def _lineage(session: Session, account_id: int, domain: str, verified: VerifiedCertificate) -> Lineage:
    """The lineage of these names, made if it is new. Its name is the common name unless another lineage has it."""
    digest = digest_names(verified.names)
    readable = verified.common_name.replace("*", "_wildcard")[:200]
    ours = {"account_id": account_id, "domain": domain, "names_digest": digest}
    query = select(Lineage).filter_by(**ours)
    for name in (readable, f"{readable}-{digest[:12]}"):
        found = session.scalar(query)
        if found is not None:
            return found
        insert_once(session, Lineage, name=name, **ours)
    return session.scalars(query).one()
