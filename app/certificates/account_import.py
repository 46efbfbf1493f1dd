"""Importing the certificates that the account has already: the newest usable one for each set of names of a domain.

A run, each of its pages and each of its domains are recorded, so it resumes after any interruption; certificates that
are fetched already are not fetched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import batched, islice

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.certificates.reconciliation import PAGE, find_missing, record_remote_certificates
from app.certificates.records import record_domain
from app.db.clock import db_now
from app.db.database import Database
from app.db.models import Certificate, ImportedDomain, ImportRun, Job, JobState, new_id
from app.db.upsert import insert_once
from app.dnsimple.adapter import DNSimple
from app.dnsimple.errors import NotFoundError
from app.dnsimple.models import Certificate as RemoteCertificate
from app.domain_names import parse_domain
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Queue, Snooze
from app.services import Services

# Domains that are waiting to be checked; the next page is listed when there are fewer.
_MOST_WAITING = 100
_PAUSE_SECONDS = 2.0
_BATCH = 500


@dataclass(slots=True)
class Progress:
    """The progress of a run: numbers of domains and certificates; `failed` names what failed, and why.

    `wanted` counts the certificates to fetch, `checked` the domains whose certificates are known.
    """

    run_id: str
    all_listed: bool = False
    domains: int = 0
    checked: int = 0
    wanted: int = 0
    fetched: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether everything is fetched or has failed."""
        settled = self.fetched + sum(name.isdigit() for name in self.failed)
        return self.all_listed and self.checked == self.domains and settled >= self.wanted


def start_import(database: Database, queue: Queue, domain: str | None) -> str:
    """Record a run and its job, or find the same one unfinished; returns its ID. Raises `InvalidFieldError`."""
    name = parse_domain(domain) if domain else None
    with database.write() as session:
        same = ImportRun.domain.is_(None) if name is None else ImportRun.domain == name
        run_id = session.scalar(select(ImportRun.id).where(same, ImportRun.finished_at.is_(None)))
        if run_id is None:
            run_id = new_id("imp")
            session.add(ImportRun(id=run_id, domain=name))
            session.flush()
        queue.enqueue(session, JobKind.IMPORT_ACCOUNT, {"run_id": run_id})
    return run_id


def import_account(services: Services, claim: Claim) -> None:
    """List the account's domains, a page at a time, and enqueue the import of each."""
    run_id = str(claim.args["run_id"])
    while True:
        with services.database.read() as session:
            run = session.get_one(ImportRun, run_id)
            unfinished = select(func.count()).where(Job.kind == JobKind.IMPORT_DOMAIN, Job.finished_at.is_(None))
            waiting = session.scalar(unfinished) or 0
        if run.next_page == 0:
            return
        if waiting >= _MOST_WAITING:
            raise Snooze(_PAUSE_SECONDS, "the domains listed so far are being checked")
        if run.domain is not None:
            domains, last = [services.dnsimple.domain(run.domain)], 1
        else:
            domains, last = services.dnsimple.domains(run.next_page)
        with services.queue.checkpoint(claim) as session:
            for domain in domains:
                record_domain(session, account_id=services.account_id, domain_id=domain.id, name=domain.name)
                insert_once(session, ImportedDomain, run_id=run_id, domain=domain.name.lower())
            jobs = {f"{run_id}:{domain.id}": {"run_id": run_id, "domain": domain.name.lower()} for domain in domains}
            services.queue.enqueue_many(session, JobKind.IMPORT_DOMAIN, jobs)
            session.get_one(ImportRun, run_id).next_page = run.next_page + 1 if run.next_page < last else 0


def import_domain(services: Services, claim: Claim) -> None:
    """List one domain's certificates and enqueue the fetch of those that are missing."""
    run_id, domain = str(claim.args["run_id"]), str(claim.args["domain"])
    try:
        remotes = list(islice(services.dnsimple.certificates(domain), PAGE))
    except NotFoundError as error:
        with services.queue.finishing(claim) as session:
            _finish_domain(session, run_id, domain, [], str(error))
        return
    with services.queue.finishing(claim) as session:
        _finish_domain(session, run_id, domain, record_remote_certificates(services.queue, session, remotes), None)


def import_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """Record at the run, or at its domain, that its job failed permanently."""
    run_id = str(claim.args["run_id"])
    if "domain" in claim.args:
        _finish_domain(session, run_id, str(claim.args["domain"]), [], error)
    else:
        run = session.get_one(ImportRun, run_id)
        run.next_page, run.error = 0, error


def import_progress(database: Database, run_id: str) -> Progress:
    """The progress of a run; one that has finished is marked as finished."""
    with database.read() as session:
        run = session.get_one(ImportRun, run_id)
        rows = session.scalars(select(ImportedDomain).where(ImportedDomain.run_id == run_id)).all()
        progress = Progress(run_id, run.next_page == 0, len(rows))
        if run.error:
            progress.failed["the list of domains"] = run.error
        wanted = {certificate_id for row in rows for certificate_id in row.certificate_ids or ()}
        progress.checked = sum(row.certificate_ids is not None for row in rows)
        progress.failed |= {row.domain: row.error for row in rows if row.error}
        progress.wanted, progress.fetched = len(wanted), _count_fetched(session, wanted)
        if progress.fetched < len(wanted):
            progress.failed |= _failed_fetches(session, wanted)
    if progress.is_finished and run.finished_at is None:
        with database.write() as session:
            session.get_one(ImportRun, run_id).finished_at = db_now()
    return progress


def preview_import(
    database: Database, dnsimple: DNSimple, domain: str | None
) -> Iterator[tuple[str, RemoteCertificate]]:
    """What an import would fetch, one call per domain; nothing is recorded."""
    for name in _domains(dnsimple, parse_domain(domain) if domain else None):
        remotes = list(islice(dnsimple.certificates(name), PAGE))
        with database.read() as session:
            missing = find_missing(session, remotes)
        for remote in missing:
            yield name, remote


def _domains(dnsimple: DNSimple, only: str | None) -> Iterator[str]:
    page, last = 1, 1
    if only is not None:
        yield dnsimple.domain(only).name.lower()
        return
    while page <= last:
        domains, last = dnsimple.domains(page)
        yield from (domain.name.lower() for domain in domains)
        page += 1


def _finish_domain(session: Session, run_id: str, domain: str, wanted: list[int], error: str | None) -> None:
    row = session.get_one(ImportedDomain, (run_id, domain), with_for_update=True)
    row.certificate_ids, row.error = wanted, error


def _count_fetched(session: Session, certificate_ids: Iterable[int]) -> int:
    fetched = select(func.count()).select_from(Certificate).where(Certificate.fetched_at.is_not(None))
    batches = batched(certificate_ids, _BATCH)
    return sum(int(session.scalar(fetched.where(Certificate.id.in_(batch))) or 0) for batch in batches)


def _failed_fetches(session: Session, wanted: set[int]) -> dict[str, str]:
    """Which certificates are neither fetched nor still being fetched, and why."""
    unfinished = select(Job.args).where(Job.kind == JobKind.FETCH_CERTIFICATE, Job.finished_at.is_(None))
    lost = wanted - {int(args["certificate_id"]) for args in session.scalars(unfinished)}
    if not lost:
        return {}
    for batch in batched(sorted(lost), _BATCH):
        query = select(Certificate.id).where(Certificate.id.in_(batch), Certificate.fetched_at.is_not(None))
        lost -= set(session.scalars(query))
    dead = session.scalars(select(Job).where(Job.kind == JobKind.FETCH_CERTIFICATE, Job.state == JobState.DEAD))
    reasons = {int(job.args["certificate_id"]): job.last_error for job in dead}
    gone = "DNSimple no longer returns this certificate"
    return {str(certificate_id): reasons.get(certificate_id) or gone for certificate_id in sorted(lost)}
