"""Reconciliation: finding the certificates that DNSimple has and we do not, because their event was lost.

Each run checks a few domains, one call each: first those with a renewal that is due, then the one whose last check is
the oldest. Domains of the account that are unknown here are discovered page by page, once a day.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice

import structlog
from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.certificates.lifetime import SUCCESSOR_CHECK_INTERVAL, expires_within, renewal_times
from app.certificates.lineages import newest_of_lineage
from app.certificates.records import record_domain
from app.certificates.retrieval import enqueue_fetch
from app.db.clock import db_now, read_now
from app.db.database import Database
from app.db.installation_state import DOMAIN_LISTING, DomainListing
from app.db.models import Certificate, Domain, Job, JobState, Quota
from app.dnsimple.adapter import DNSimple
from app.dnsimple.errors import NotFoundError
from app.dnsimple.models import Certificate as RemoteCertificate
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim, Queue
from app.services import Services
from config import Settings

log = structlog.get_logger("certcourier")

SECONDS = 300
PAGE = 100  # certificates of one call; those older than that many newer ones are no longer in use
_MOST_CAUGHT_UP = 1000
_DAY = 86400


def catch_up(queue: Queue, session: Session) -> None:
    """Check everything that may have happened while events were missed, in the caller's transaction."""
    waiting = update(Job).where(Job.kind == JobKind.POLL_ISSUANCE, Job.state == JobState.READY).values(run_at=db_now())
    session.execute(waiting)
    since = read_now(session).isoformat()
    queue.enqueue(session, JobKind.RECONCILE, {"since": since}, priority=Priority.NORMAL)


def reconcile(services: Services, claim: Claim) -> None:
    """Use this run's calls. With `since` among the arguments: check all due renewals that were not checked since."""
    since = claim.args.get("since")
    if since is not None:
        _check_due_renewals(services.queue, services.dnsimple, claim, datetime.fromisoformat(since), _MOST_CAUGHT_UP)
    else:
        calls = _call_limit(services.settings, services.database, services.account_id)
        calls -= _discover_domains(services, claim) if calls > 1 else 0
        with services.database.read() as session:
            earliest = read_now(session) - SUCCESSOR_CHECK_INTERVAL
        calls -= _check_due_renewals(services.queue, services.dnsimple, claim, earliest, (calls + 1) // 2)
        _check_least_recent(services.queue, services.dnsimple, claim, calls)


def _call_limit(settings: Settings, database: Database, account_id: int) -> int:
    """How many calls this run may make: its share of DNSimple's limit, at least one."""
    with database.read() as session:
        quota = session.get(Quota, account_id)
    if quota is None or settings.reconcile_percent == 0:
        return 0
    share = settings.reconcile_percent / 100
    return max(1, int(quota.call_limit * share * SECONDS / quota.window_seconds))


def _check_due_renewals(queue: Queue, dnsimple: DNSimple, claim: Claim, since: datetime, most: int) -> int:
    """Check domains with a renewal that DNSimple should have made, unless checked `since`. Returns the calls made."""
    for count in range(most):
        if not _check_domain(queue, dnsimple, claim, lambda session: _next_due(session, since)):
            return count
    return most


def _next_due(session: Session, since: datetime) -> Domain | None:
    now = read_now(session)
    query = (
        select(Domain, Certificate.not_before, Certificate.not_after)
        .join(Certificate, Certificate.domain_id == Domain.id)
        .where(
            expires_within(now),
            newest_of_lineage(),
            Certificate.auto_renew.is_not(False),
            or_(Domain.last_checked_at.is_(None), Domain.last_checked_at < since),
        )
        .order_by(Certificate.not_after)
        .limit(100)
    )
    for domain, not_before, not_after in session.execute(query):
        if not_before is not None and not_after is not None and now >= renewal_times(not_before, not_after).expected_at:
            return domain
    return None


def _check_least_recent(queue: Queue, dnsimple: DNSimple, claim: Claim, most: int) -> None:
    for _ in range(most):
        if not _check_domain(queue, dnsimple, claim, _least_recently_checked):
            return


def _least_recently_checked(session: Session) -> Domain | None:
    query = select(Domain).order_by(Domain.last_checked_at.nulls_first(), Domain.id).limit(1)
    domain = session.scalar(query)
    fresh = read_now(session) - timedelta(seconds=SECONDS)
    return None if domain and domain.last_checked_at and domain.last_checked_at > fresh else domain


def _check_domain(queue: Queue, dnsimple: DNSimple, claim: Claim, choose: Callable[[Session], Domain | None]) -> bool:
    """Compare one domain's certificates with DNSimple's, a call; False if `choose` finds no domain."""
    with queue.checkpoint(claim) as session:
        domain = choose(session)
        if domain is None:
            return False
        # Recorded before the call: a domain whose answer cannot be used must not keep the others from being checked.
        domain.last_checked_at = db_now()
        domain_id, name = domain.id, domain.name
    try:
        remotes = list(islice(dnsimple.certificates(name), PAGE))
    except NotFoundError:
        with queue.checkpoint(claim) as session:
            session.execute(delete(Domain).where(Domain.id == domain_id))
        log.info("domain has left the account", domain=name)
        return True
    with queue.checkpoint(claim) as session:
        record_remote_certificates(queue, session, remotes)
    return True


def record_remote_certificates(queue: Queue, session: Session, remotes: list[RemoteCertificate]) -> list[int]:
    """Enqueue the fetch of a domain's missing certificates, listed newest first, in the caller's transaction.

    Returns their IDs.
    """
    missing = find_missing(session, remotes)
    for remote in missing:
        enqueue_fetch(queue, session, certificate_id=remote.id, domain_id=remote.domain_id)
        log.warning("certificate found by reconciliation", certificate_id=remote.id, common_name=remote.common_name)
    return [remote.id for remote in missing]


def find_missing(session: Session, remotes: list[RemoteCertificate]) -> list[RemoteCertificate]:
    """The newest usable certificate for each set of names, unless it is fetched; not those whose fetch failed for good.

    Records on the way whether DNSimple renews the fetched ones automatically.
    """
    now = read_now(session)
    dead = select(Job.args).where(Job.kind == JobKind.FETCH_CERTIFICATE, Job.state == JobState.DEAD)
    failed = {args["certificate_id"] for args in session.scalars(dead)}
    newest: dict[object, RemoteCertificate] = {}
    for remote in remotes:  # newest first
        usable = remote.state == "issued" and (remote.expires_at is None or remote.expires_at > now)
        if usable and remote.id not in failed:
            newest.setdefault((remote.common_name, frozenset(remote.alternate_names)), remote)
    missing = {remote.id: remote for remote in newest.values()}
    fetched = select(Certificate).where(Certificate.id.in_(list(missing)), Certificate.fetched_at.is_not(None))
    for certificate in session.scalars(fetched).all():
        certificate.auto_renew = missing.pop(certificate.id).auto_renew
    return list(missing.values())


def _discover_domains(services: Services, claim: Claim) -> int:
    """List one page of the account's domains, until all were listed today. Returns the number of calls."""
    with services.database.read() as session:
        today = int(read_now(session).timestamp() // _DAY)
        listing = DOMAIN_LISTING.get(session) or DomainListing(0, 0)
    if listing == DomainListing(today, 0):
        return 0
    page = max(listing.next_page, 1)
    domains, last = services.dnsimple.domains(page)
    with services.queue.checkpoint(claim) as session:
        for domain in domains:
            record_domain(session, account_id=services.account_id, domain_id=domain.id, name=domain.name)
        DOMAIN_LISTING.set(session, DomainListing(today, page + 1 if page < last else 0))
    return 1
