"""What DNSimple has and we do not: certificates whose event never came. Cheap in calls, and never done.

Each run looks at a few domains, a call each: first those where a renewal is overdue, then the one that was looked at
longest ago. Domains that we have not heard of are learned page by page, once a day.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

import structlog
from sqlalchemy import Select, delete, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.certificates.retrieval import enqueue_fetch
from app.db.clock import db_now, read_now
from app.db.models import Certificate, Domain, Fact, Job, Quota
from app.db.upsert import insert_once
from app.dnsimple.errors import NotFoundError
from app.dnsimple.models import Certificate as RemoteCertificate
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim
from app.renewals.renewal import renewal_times
from app.services import Services

log = structlog.get_logger("certcourier")

SECONDS = 300
PAGE = 100  # certificates of one call; what is older than that many newer ones is not served any more
_OVERDUE_AGAIN = timedelta(hours=6)
_GONE = timedelta(days=7)
_EARLIEST_RENEWAL = timedelta(days=30)  # before expiry; `renewal_times` says for each certificate
_MOST_CAUGHT_UP = 1000
_DAY = 86400
_PAGES_FACT = "domains_learned"  # day and next page; page 0: all of them were seen that day


@dataclass(frozen=True, slots=True)
class _Look:
    """A domain to ask for, by the name that it had when we learned its ID."""

    id: int
    name: str


def catch_up(services: Services, session: Session) -> None:
    """Nobody heard DNSimple for a while: look at all that may have happened since, in the caller's transaction."""
    waiting = update(Job).where(Job.kind == JobKind.POLL_ISSUANCE, Job.state == "ready").values(run_at=db_now())
    session.execute(waiting)
    since = read_now(session).isoformat()
    services.queue.enqueue(
        session, JobKind.RECONCILE, {"since": since}, key="reconcile:catch_up", priority=Priority.NORMAL
    )


def reconcile(services: Services, claim: Claim) -> None:
    """Spend this run's calls. With `since` among the arguments: look at everything overdue, once since then."""
    since = claim.args.get("since")
    if since is not None:
        _look_at_overdue(services, claim, datetime.fromisoformat(since), _MOST_CAUGHT_UP)
    else:
        calls = _allowance(services)
        calls -= _learn_domains(services, claim) if calls > 1 else 0
        with services.database.read() as session:
            again = read_now(session) - _OVERDUE_AGAIN
        calls -= _look_at_overdue(services, claim, again, (calls + 1) // 2)
        _check_next_domains(services, claim, calls)


def _allowance(services: Services) -> int:
    """How many calls this run may make, at least one: its share of the limit that DNSimple tells."""
    with services.database.read() as session:
        quota = session.get(Quota, services.account_id)
    if quota is None or services.settings.reconcile_percent == 0:
        return 0
    share = services.settings.reconcile_percent / 100
    return max(1, int(quota.call_limit * share * SECONDS / quota.window_seconds))


def _look_at_overdue(services: Services, claim: Claim, since: datetime, most: int) -> int:
    for count in range(most):
        with services.queue.checkpoint(claim) as session:
            look = _noted(_next_overdue(session, since))
        if look is None:
            return count
        _look(services, claim, look)
    return most


def _next_overdue(session: Session, since: datetime) -> Domain | None:
    now = read_now(session)
    for domain, not_before, not_after in session.execute(_awaiting_renewal(now, since)):
        if not_before is None or not_after is None:
            continue
        if now >= renewal_times(not_before, not_after).expected_at:
            return domain
    return None


def _awaiting_renewal(now: datetime, since: datetime) -> Select[Domain, datetime | None, datetime | None]:
    """Domains not looked at since, with a newest certificate of a lineage that DNSimple may have renewed already."""
    newer = aliased(Certificate)
    has_newer = exists().where(newer.lineage_id == Certificate.lineage_id, newer.not_before > Certificate.not_before)
    return (
        select(Domain, Certificate.not_before, Certificate.not_after)
        .join(Certificate, Certificate.domain_id == Domain.id)
        .where(
            Certificate.not_after.between(now - _GONE, now + _EARLIEST_RENEWAL),
            Certificate.auto_renew.is_not(False),
            or_(Domain.last_checked_at.is_(None), Domain.last_checked_at < since),
            ~has_newer,
        )
        .order_by(Certificate.not_after)
        .limit(100)
    )


def _check_next_domains(services: Services, claim: Claim, most: int) -> None:
    for _ in range(most):
        with services.queue.checkpoint(claim) as session:
            longest_ago = select(Domain).order_by(Domain.last_checked_at.nulls_first(), Domain.id).limit(1)
            fresh = read_now(session) - timedelta(seconds=SECONDS)
            domain = session.scalar(longest_ago)
            look = _noted(None if domain and domain.last_checked_at and domain.last_checked_at > fresh else domain)
        if look is None:
            return
        _look(services, claim, look)


def _noted(domain: Domain | None) -> _Look | None:
    """Noted before the call: a domain whose answer cannot be used must not stand in the way of the others."""
    if domain is None:
        return None
    domain.last_checked_at = db_now()
    return _Look(domain.id, domain.name)


def _look(services: Services, claim: Claim, look: _Look) -> None:
    try:
        remotes = list(islice(services.dnsimple.certificates(look.name), PAGE))
    except NotFoundError:
        with services.queue.checkpoint(claim) as session:
            session.execute(delete(Domain).where(Domain.id == look.id))
        log.info("domain has left the account", domain=look.name)
        return
    with services.queue.checkpoint(claim) as session:
        record_remote_certificates(services, session, remotes)


def record_remote_certificates(services: Services, session: Session, remotes: list[RemoteCertificate]) -> list[int]:
    """Want what is missing of a domain's certificates, newest first, in the caller's transaction; their IDs."""
    missing = find_missing(session, remotes)
    for remote in missing:
        enqueue_fetch(services, session, certificate_id=remote.id, domain_id=remote.domain_id)
        log.warning("certificate found by looking", certificate_id=remote.id, common_name=remote.common_name)
    return [remote.id for remote in missing]


def find_missing(session: Session, remotes: list[RemoteCertificate]) -> list[RemoteCertificate]:
    """The newest usable certificate for each set of names, unless it is installed. What was given up is not usable."""
    now = read_now(session)
    given_up = {
        args["certificate_id"]
        for args in session.scalars(select(Job.args).where(Job.kind == JobKind.FETCH_CERTIFICATE, Job.state == "dead"))
    }
    newest: dict[object, RemoteCertificate] = {}
    for remote in remotes:  # newest first
        usable = remote.state == "issued" and (remote.expires_at is None or remote.expires_at > now)
        if usable and remote.id not in given_up:
            newest.setdefault((remote.common_name, frozenset(remote.alternate_names)), remote)
    installed = _installed(session, newest.values())
    return [remote for remote in newest.values() if remote.id not in installed]


def _installed(session: Session, remotes: Iterable[RemoteCertificate]) -> set[int]:
    """Which of these are installed; notes on the way whether they are renewed automatically."""
    asked = {remote.id: remote for remote in remotes}
    known = select(Certificate).where(Certificate.id.in_(asked), Certificate.fetched_at.is_not(None))
    installed = list(session.scalars(known))
    for certificate in installed:
        certificate.auto_renew = asked[certificate.id].auto_renew
    return {certificate.id for certificate in installed}


def _learn_domains(services: Services, claim: Claim) -> int:
    """One page of the account's domains, until all were seen today. Returns the calls made."""
    with services.database.read() as session:
        today = int(read_now(session).timestamp() // _DAY)
        fact = session.get(Fact, _PAGES_FACT)
    day, page = map(int, fact.value.split(":")) if fact else (0, 0)
    if page == 0 and day == today:
        return 0
    page = max(page, 1)
    domains, last = services.dnsimple.domains(page)
    with services.queue.checkpoint(claim) as session:
        for domain in domains:
            insert_once(session, Domain, id=domain.id, account_id=services.account_id, name=domain.name.lower())
        session.merge(Fact(name=_PAGES_FACT, value=f"{today}:{page + 1 if page < last else 0}"))
    return 1
