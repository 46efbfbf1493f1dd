"""Fetching an issued certificate: downloaded by its ID, verified, encrypted, and enqueued for every destination.

It costs two calls to DNSimple, however often and in whichever way the certificate was announced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta

import structlog
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.certificates.lineages import ensure_lineage
from app.certificates.records import lock_certificate, record_domain
from app.certificates.verification import VerificationError, VerifiedCertificate, verify
from app.crypto.private_key import PrivateKey
from app.db.clock import db_now, read_now
from app.db.database import Database
from app.db.models import Certificate, Domain, Job, JobState, Order, OrderState
from app.db.upsert import changed_rows
from app.deliveries.delivery import enqueue_delivery
from app.dnsimple.adapter import DNSimple, Purpose
from app.dnsimple.errors import NotFoundError, NotIssuedYetError
from app.jobs.kinds import JobKind
from app.jobs.queue import POLLS_ARG, Claim, Queue, Snooze
from app.orders.failures import fail_order
from app.services import Services
from app.timeline import record_event_step, record_step

log = structlog.get_logger("certcourier")

# DNSimple can answer 428 for a while after `issued` (contract, section 2.4): that is retried for about three hours, and
# not much longer where the pauses were long, since a certificate of six days cannot wait a week.
_NOT_YET_PAUSES = (2, 4, 8, 15, 30, 60, 120, 300, 600)
_NOT_YET_MOST = 25
_NOT_YET_FEWEST = 5
_NOT_YET_LONGEST = timedelta(hours=3)
# A certificate known only from an event waits for a share of each hour's calls: for about three days.
_UNVERIFIED_MOST = 72


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A certificate to fetch; `request_identifier` is that of the event which announced it, if one did.

    `seen`: DNSimple itself has reported the certificate, so no forged event invented it. `again`: the certificate was
    reissued under the same ID.
    """

    certificate_id: int
    domain_id: int
    request_identifier: str | None = None
    seen: bool = False
    again: bool = False

    @property
    def key(self) -> str:
        """The job's key: one unfinished job for a certificate, and one for its reissue."""
        return f"{JobKind.FETCH_CERTIFICATE.key_for(asdict(self))}{':again' if self.again else ''}"


@dataclass(frozen=True, slots=True)
class _Target:
    """Which certificate to fetch. `reference`, the domain's name or ID, becomes part of the call's path, so that
    DNSimple itself checks that domain and certificate belong together.
    """

    certificate_id: int
    domain: str
    domain_id: int
    reference: str | int
    order: Order | None
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What is to be stored; the private key is encrypted in that transaction."""

    target: _Target
    verified: VerifiedCertificate
    key: PrivateKey


def enqueue_fetch(queue: Queue, session: Session, *, certificate_id: int, domain_id: int) -> None:
    """Enqueue the fetch of a certificate that DNSimple has reported, in the caller's transaction; once at a time.

    A job that waits for the quota of unverified events becomes an ordinary one and starts at once.
    """
    request = FetchRequest(certificate_id, domain_id, seen=True)
    waiting = update(Job).where(
        Job.key == request.key, Job.state == JobState.READY, Job.kind == JobKind.FETCH_CERTIFICATE
    )
    expedited = {"args": asdict(request), "run_at": db_now()}
    if not changed_rows(session.execute(waiting.values(**expedited))):
        enqueue_fetches(queue, session, [request])


def enqueue_fetches(queue: Queue, session: Session, requests: Iterable[FetchRequest]) -> None:
    """Enqueue many fetches in the caller's transaction."""
    queue.enqueue_many(session, JobKind.FETCH_CERTIFICATE, {request.key: asdict(request) for request in requests})


def fetch_certificate(services: Services, claim: Claim) -> None:
    """Fetch, verify, encrypt and commit one certificate, unless that has been done or it is not the account's.

    Raises `VerificationError` if it must not be used, `Snooze` while DNSimple does not return it yet.
    """
    target = _target(services.database, services.dnsimple, services.account_id, claim)
    if target is None:
        return
    if target.purpose is Purpose.UNVERIFIED_EVENT and claim.snoozes > _UNVERIFIED_MOST:
        reason = "no API call was available for it in three days; if it exists, reconciliation will find it"
        _ignore(claim, reason)
        return
    try:
        with services.dnsimple.with_purpose(target.purpose).reserve(2) as dnsimple:
            download = dnsimple.download(target.reference, target.certificate_id)
            key = dnsimple.private_key(target.reference, target.certificate_id)
    except NotIssuedYetError as error:
        raise _not_yet(services.queue, claim, error) from error
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
        key.reveal(),
        now=now,
        must_cover=target.order.names if target.order else (),
    )
    with services.queue.finishing(claim) as session:
        _record(services, session, claim, _Fetched(target, verified, key))


def fetch_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """Fail the order whose fetch failed permanently.

    The event of an older and valid certificate of these names may be lost, so reconciliation checks the domain soon.
    """
    session.execute(update(Domain).where(Domain.id == int(claim.args["domain_id"])).values(last_checked_at=None))
    certificate = session.get(Certificate, int(claim.args["certificate_id"]))
    order = session.get(Order, certificate.order_id) if certificate and certificate.order_id else None
    if order is not None and order.state in {OrderState.PENDING, OrderState.ISSUED}:
        title = "The certificate could not be fetched"
        fail_order(session, order, {"type": "fetch-failed", "title": title, "detail": error})


def _not_yet(queue: Queue, claim: Claim, error: NotIssuedYetError) -> Snooze | VerificationError:
    """Retry after an increasing pause, or fail. Only these answers count: a wait for the quota does not."""
    polls = int(claim.args.get(POLLS_ARG, 0))
    with queue.checkpoint(claim) as session:
        job = session.get_one(Job, claim.id)
        age = read_now(session) - job.created_at
        job.args = {**claim.args, POLLS_ARG: polls + 1}
    if polls >= (_NOT_YET_FEWEST if age > _NOT_YET_LONGEST else _NOT_YET_MOST):
        return VerificationError(f"{error}: DNSimple still does not return it after several hours")
    return Snooze(_NOT_YET_PAUSES[min(polls, len(_NOT_YET_PAUSES) - 1)], str(error))


def _target(database: Database, dnsimple: DNSimple, account_id: int, claim: Claim) -> _Target | None:
    certificate_id, domain_id = int(claim.args["certificate_id"]), int(claim.args["domain_id"])
    with database.read() as session:
        known = session.get(Certificate, certificate_id)
        order = session.get(Order, known.order_id) if known and known.order_id else None
        domain = session.get(Domain, domain_id)
    if known is not None:
        if known.fetched_at is not None and not claim.args.get("again"):
            return None
        if known.domain_id not in {None, domain_id}:
            log.warning("event names a different domain", certificate_id=certificate_id, domain_id=domain_id)
            return None
        client_waits = order is not None and order.renews_certificate_id is None
        purpose = Purpose.INTERACTIVE if client_waits else Purpose.BACKGROUND
        if known.fetched_at is not None:  # an event reports a reissue
            purpose = Purpose.REPEAT_CHECK
        # Until DNSimple's answer to our order has named the domain's ID, the one in the event is not verified.
        reference = known.domain if known.domain_id else domain_id
        return _Target(certificate_id, known.domain, domain_id, reference, order, purpose)
    if domain is None:
        domain = _discover_domain(database, dnsimple, account_id, domain_id)
    purpose = Purpose.BACKGROUND if claim.args.get("seen") else Purpose.UNVERIFIED_EVENT
    return _Target(certificate_id, domain.name, domain.id, domain.name, None, purpose) if domain else None


def _discover_domain(database: Database, dnsimple: DNSimple, account_id: int, domain_id: int) -> Domain | None:
    """Ask DNSimple which domain an unknown ID is, once."""
    try:
        remote = dnsimple.with_purpose(Purpose.UNVERIFIED_EVENT).domain(domain_id)
    except NotFoundError:
        log.warning("event names a domain that is not in the account", domain_id=domain_id)
        return None
    domain = Domain(id=remote.id, account_id=account_id, name=remote.name.lower())
    with database.write() as session:
        record_domain(session, account_id=domain.account_id, domain_id=domain.id, name=domain.name)
    return domain


def _ignore(claim: Claim, reason: str) -> None:
    log.warning("event ignored", reason=reason, certificate_id=claim.args["certificate_id"])


def _record(
    services: Services,
    session: Session,
    claim: Claim,
    fetched: _Fetched,
) -> None:
    target, verified = fetched.target, fetched.verified
    account_id, domain, names = services.account_id, target.domain, list(verified.names)
    record_domain(session, account_id=account_id, domain_id=target.domain_id, name=domain)
    certificate = lock_certificate(
        session,
        target.certificate_id,
        account_id=account_id,
        domain=domain,
        state="issued",
        common_name=verified.common_name,
        names=names,
    )
    if certificate.fetched_at is not None and certificate.fingerprint == verified.fingerprint:
        return  # another event's job was faster
    lineage = ensure_lineage(
        session, account_id=account_id, domain=domain, common_name=verified.common_name, names=names
    )
    certificate.lineage_id = lineage.id
    certificate.domain_id = target.domain_id
    certificate.state = "issued"
    certificate.common_name = verified.common_name
    certificate.names = names
    certificate.serial = verified.serial
    certificate.fingerprint = verified.fingerprint
    certificate.key_algorithm = verified.key_algorithm
    certificate.not_before = verified.not_before
    certificate.not_after = verified.not_after
    certificate.leaf_pem = verified.leaf_pem
    certificate.chain_pem = verified.chain_pem
    services.private_keys.store(session, certificate, fetched.key)
    certificate.fetched_at = read_now(session)
    order_id = certificate.order_id
    record_event_step(session, claim.args.get("request_identifier"), order_id=order_id, certificate_id=certificate.id)
    detail = "certificate, chain and private key"
    record_step(session, "fetched", detail, order_id=order_id, certificate_id=certificate.id)
    until = f"valid until {verified.not_after:%Y-%m-%d}"
    detail = f"{', '.join(names)}; {verified.key_algorithm}; {until}; key matches, chain verified"
    record_step(session, "verified", detail, order_id=order_id, certificate_id=certificate.id)
    if order_id is not None:
        order = session.get_one(Order, order_id, with_for_update=True)
        order.state, order.in_flight_key, order.failure = OrderState.FETCHED, None, None
    for name, destination in services.destinations.items():
        if destination.config.takes(certificate.names):
            enqueue_delivery(services.queue, services.destinations, session, certificate.id, name)
