"""Taking over the certificates that an account has already: the newest usable of each set of names of each domain.

A run is on record, and so is each page and each domain of it, so it goes on after any interruption; what is installed
already is not fetched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import batched, islice

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.certificates.reconciliation import PAGE, find_missing, record_remote_certificates
from app.db.clock import db_now
from app.db.models import Certificate, Domain, ImportedDomain, ImportRun, Job, new_id
from app.db.upsert import insert_once
from app.dnsimple.errors import NotFoundError
from app.dnsimple.models import Certificate as RemoteCertificate
from app.domain_names import parse_domain
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Snooze
from app.services import Services

# Domains that wait to be looked at; the next page of them is listed when there are fewer.
_MOST_WAITING = 100
_PAUSE_SECONDS = 2.0
_BATCH = 500


@dataclass(slots=True)
class Progress:
    """How far a run is. `wanted` are certificates to fetch; `failed` names what could not be imported, and why."""

    run_id: str
    all_listed: bool = False
    domains: int = 0
    checked: int = 0
    wanted: int = 0
    fetched: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to wait for."""
        settled = self.fetched + sum(name.isdigit() for name in self.failed)
        return self.all_listed and self.checked == self.domains and settled >= self.wanted


def start_import(services: Services, domain: str | None) -> str:
    """Put a run and its job on record, or find the same one unfinished. Raises `InvalidFieldError`."""
    name = parse_domain(domain) if domain else None
    with services.database.write() as session:
        same = ImportRun.domain.is_(None) if name is None else ImportRun.domain == name
        run_id = session.scalar(select(ImportRun.id).where(same, ImportRun.finished_at.is_(None)))
        if run_id is None:
            run_id = new_id("imp")
            session.add(ImportRun(id=run_id, domain=name))
            session.flush()
        services.queue.enqueue(session, JobKind.IMPORT_ACCOUNT, {"run_id": run_id})
    return run_id


def import_account(services: Services, claim: Claim) -> None:
    """List the account's domains, a page at a time, and have each of them looked at."""
    run_id = str(claim.args["run_id"])
    while True:
        with services.database.read() as session:
            run = session.get_one(ImportRun, run_id)
            looking = select(func.count()).where(Job.kind == JobKind.IMPORT_DOMAIN, Job.finished_at.is_(None))
            waiting = session.scalar(looking) or 0
        if run.next_page == 0:
            return
        if waiting >= _MOST_WAITING:
            raise Snooze(_PAUSE_SECONDS, "the domains listed so far are being looked at")
        if run.domain is not None:
            domains, last = [services.dnsimple.domain(run.domain)], 1
        else:
            domains, last = services.dnsimple.domains(run.next_page)
        with services.queue.checkpoint(claim) as session:
            for domain in domains:
                name = domain.name.lower()
                insert_once(session, Domain, id=domain.id, account_id=services.account_id, name=name)
                insert_once(session, ImportedDomain, run_id=run_id, domain=name)
            jobs = {f"{run_id}:{one.id}": {"run_id": run_id, "domain": one.name.lower()} for one in domains}
            services.queue.enqueue_many(session, JobKind.IMPORT_DOMAIN, jobs)
            session.get_one(ImportRun, run_id).next_page = run.next_page + 1 if run.next_page < last else 0


def import_domain(services: Services, claim: Claim) -> None:
    """Look at one domain, and have fetched what is missing."""
    about = (str(claim.args["run_id"]), str(claim.args["domain"]))
    try:
        remotes = list(islice(services.dnsimple.certificates(about[1]), PAGE))
    except NotFoundError as error:
        with services.queue.finishing(claim) as session:
            _end(session, about, [], str(error))
        return
    with services.queue.finishing(claim) as session:
        _end(session, about, record_remote_certificates(services, session, remotes), None)


def import_job_died(services: Services, session: Session, claim: Claim, error: str) -> None:  # noqa: ARG001
    """The job was given up: the run, or its domain, says so."""
    run_id = str(claim.args["run_id"])
    if "domain" in claim.args:
        _end(session, (run_id, str(claim.args["domain"])), [], error)
    else:
        run = session.get_one(ImportRun, run_id)
        run.next_page, run.problem = 0, error


def import_progress(services: Services, run_id: str) -> Progress:
    """How far it is; a finished one is noted as finished."""
    with services.database.read() as session:
        run = session.get_one(ImportRun, run_id)
        rows = session.scalars(select(ImportedDomain).where(ImportedDomain.run_id == run_id)).all()
        progress = Progress(run_id, run.next_page == 0, len(rows))
        if run.problem:
            progress.failed["the list of domains"] = run.problem
        wanted = {number for row in rows for number in row.certificate_ids or ()}
        progress.checked = sum(row.certificate_ids is not None for row in rows)
        progress.failed |= {row.domain: row.problem for row in rows if row.problem}
        progress.wanted, progress.fetched = len(wanted), _count_fetched(session, wanted)
        if progress.fetched < len(wanted):
            progress.failed |= _given_up(session, wanted)
    if progress.is_finished and run.finished_at is None:
        with services.database.write() as session:
            session.get_one(ImportRun, run_id).finished_at = db_now()
    return progress


def preview_import(services: Services, domain: str | None) -> Iterator[tuple[str, RemoteCertificate]]:
    """What an import would fetch, a call for each domain; nothing is put on record."""
    for name in _domains(services, parse_domain(domain) if domain else None):
        remotes = list(islice(services.dnsimple.certificates(name), PAGE))
        with services.database.read() as session:
            missing = find_missing(session, remotes)
        for remote in missing:
            yield name, remote


def _domains(services: Services, only: str | None) -> Iterator[str]:
    page, last = 1, 1
    if only is not None:
        yield services.dnsimple.domain(only).name.lower()
        return
    while page <= last:
        domains, last = services.dnsimple.domains(page)
        yield from (domain.name.lower() for domain in domains)
        page += 1


def _end(session: Session, about: tuple[str, str], wanted: list[int], problem: str | None) -> None:
    row = session.get_one(ImportedDomain, about, with_for_update=True)
    row.certificate_ids, row.problem = wanted, problem


def _count_fetched(session: Session, numbers: Iterable[int]) -> int:
    installed = select(func.count()).select_from(Certificate).where(Certificate.fetched_at.is_not(None))
    batches = batched(numbers, _BATCH)
    return sum(int(session.scalar(installed.where(Certificate.id.in_(some))) or 0) for some in batches)


def _given_up(session: Session, wanted: set[int]) -> dict[str, str]:
    """What is neither installed nor being fetched any more, and why."""
    installs = select(Job.args).where(Job.kind == JobKind.FETCH_CERTIFICATE, Job.finished_at.is_(None))
    lost = wanted - {int(args["certificate_id"]) for args in session.scalars(installs)}
    if not lost:
        return {}
    for some in batched(sorted(lost), _BATCH):
        query = select(Certificate.id).where(Certificate.id.in_(some), Certificate.fetched_at.is_not(None))
        lost -= set(session.scalars(query))
    dead = session.scalars(select(Job).where(Job.kind == JobKind.FETCH_CERTIFICATE, Job.state == "dead"))
    reasons = {int(job.args["certificate_id"]): job.last_error for job in dead}
    return {str(number): reasons.get(number) or "DNSimple does not hand it out any more" for number in sorted(lost)}
