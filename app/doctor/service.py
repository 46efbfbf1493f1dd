"""Checks of the running service: is it reached from outside, does it work, is it one version?"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import requests
from sqlalchemy import delete, func, select

from app.certificates.lifetime import RENEWAL_HORIZON, renewal_times
from app.certificates.queries import list_expiring
from app.db.clock import db_now, read_now
from app.db.installation_state import RUNNING_VERSIONS
from app.db.models import Event, Job
from app.db.upsert import changed_rows
from app.doctor.findings import CheckContext, Finding, ok, problem, warning
from app.operations.health import check_readiness, code_version

_TIMEOUT = (5.0, 10.0)
_LATE_SECONDS = 600.0
_MOST, _MOST_NAMED = 1000, 5
_REACH = "see that the name leads here, that the proxy hands everything on, and that its certificate is valid"


def check_reachability(examination: CheckContext) -> Iterable[Finding]:
    """PUBLIC_URL answers, is us, and takes events: one of no account is sent through it, which changes nothing."""
    services = examination.services
    with requests.Session() as session:
        session.trust_env = False
        try:
            health = session.get(f"{services.settings.public_url}/healthz", timeout=_TIMEOUT, allow_redirects=False)
        except requests.RequestException as error:
            yield problem(f"PUBLIC_URL does not answer ({type(error).__name__})", _REACH)
            return
        if health.status_code != 200 or not health.text.startswith("{"):
            yield problem(f"PUBLIC_URL answers {health.status_code} at /healthz: it is not this service", _REACH)
            return
        yield from _probe(examination, session)


def _probe(examination: CheckContext, session: requests.Session) -> Iterable[Finding]:
    services, probe = examination.services, f"doctor-{uuid.uuid4()}"
    body = {"name": "certcourier.probe", "request_identifier": probe, "data": {}}
    try:
        answer = session.post(services.webhook_url, json=body, timeout=_TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        yield problem(f"the webhook's path does not answer ({type(error).__name__})", _REACH)
        return
    with services.database.write() as database:
        seen = changed_rows(database.execute(delete(Event).where(Event.request_identifier == probe)))
    if answer.status_code == 404:
        yield problem(
            "PUBLIC_URL does not know our webhook's secret path",
            "see that all hosts use the same DATABASE_URL and key-encryption key, then restart",
        )
    elif answer.status_code != 200:
        yield problem(f"the webhook's path answers {answer.status_code}; DNSimple wants 200", _REACH)
    elif not seen:
        yield problem(
            "an event sent to PUBLIC_URL was acknowledged and is not in this database",
            "give all hosts the same DATABASE_URL",
        )
    else:
        yield ok("an event sent through PUBLIC_URL arrived in this database")


def check_workers(examination: CheckContext) -> Iterable[Finding]:
    """Somebody does the work, with the same code as the web server."""
    worker = check_readiness(examination.services)["worker"]
    yield ok("a worker was heard from") if worker == "ok" else problem(f"worker: {worker}", "start `flask worker`")
    with examination.services.database.read() as session:
        found = {role: entry.get(session) for role, entry in RUNNING_VERSIONS.items()}
    versions = {role: version for role, version in found.items() if version is not None}
    outdated = sorted(role for role, version in versions.items() if version != code_version())
    if outdated:
        yield warning(f"{' and '.join(outdated)} run other code than this command", "restart them after an upgrade")
    elif versions:
        yield ok(f"{' and '.join(sorted(versions))} run the same code as this command ({code_version()})")


def check_certificates(examination: CheckContext) -> Iterable[Finding]:
    """None should have been renewed and was not, by the same rule as the alert `renewal_overdue`."""
    services = examination.services
    with services.database.read() as session:
        now = read_now(session)
    late: list[str] = []
    urgent: list[str] = []
    for one in list_expiring(services, within=RENEWAL_HORIZON, limit=_MOST):
        if one.not_before is None or one.not_after is None:
            continue
        times = renewal_times(one.not_before, one.not_after)
        if now >= times.overdue_at:
            (urgent if now >= times.critical_at else late).append(one.common_name)
    if urgent:
        yield problem(
            f"should have been renewed long ago, or expired: {_named(urgent)}",
            "see `flask certificates list --expires-within 7`, and `flask doctor --domain DOMAIN` for why; order anew",
        )
    if late:
        yield warning(
            f"should have been renewed by now: {_named(late)}",
            "see `flask doctor --domain DOMAIN` for why",
        )
    if not urgent and not late:
        yield ok("no certificate that is in use is about to expire")


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return f"{shown} and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else shown


def check_jobs(examination: CheckContext) -> Iterable[Finding]:
    """Nothing was given up, nothing waits too long."""
    with examination.services.database.read() as session:
        dead = session.scalar(select(func.count()).select_from(Job).where(Job.state == "dead")) or 0
        late = Job.state == "ready", Job.run_at < db_now(-_LATE_SECONDS)
        waiting = session.scalar(select(func.count()).select_from(Job).where(*late)) or 0
    if dead:
        yield warning(
            f"jobs that were given up: {dead}", "see `flask jobs list --state dead`, then `flask jobs retry --all-dead`"
        )
    if waiting:
        yield problem(f"jobs that have been due for ten minutes: {waiting}", "start a worker, or more of them")
    if not dead and not waiting:
        yield ok("no job was given up, none is late")
