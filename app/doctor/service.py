"""Checks of the running service: whether it is reachable, whether a worker runs, and which code they run."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import requests
from sqlalchemy import delete, func, select

from app.db.clock import read_now
from app.db.installation_state import RUNNING_VERSIONS
from app.db.models import Event, Worker
from app.db.upsert import changed_rows
from app.doctor.alerts import alert_findings
from app.doctor.findings import CheckContext, Finding, critical, ok, warning
from app.operations.health import code_version

_TIMEOUT = (5.0, 10.0)
_REACH = "check that the name resolves to this service, that the proxy forwards every path, and its certificate"


def check_reachability(context: CheckContext) -> Iterable[Finding]:
    """PUBLIC_URL leads to this service, and an event that is sent through it arrives. The event changes nothing."""
    services = context.services
    with requests.Session() as session:
        session.trust_env = False
        try:
            health = session.get(f"{services.settings.public_url}/healthz", timeout=_TIMEOUT, allow_redirects=False)
        except requests.RequestException as error:
            yield critical(f"PUBLIC_URL does not answer ({type(error).__name__})", _REACH)
            return
        if health.status_code != 200 or not health.text.startswith("{"):
            yield critical(f"PUBLIC_URL answers {health.status_code} at /healthz: it is not this service", _REACH)
            return
        yield from _probe(context, session)


def _probe(context: CheckContext, session: requests.Session) -> Iterable[Finding]:
    services, probe = context.services, f"doctor-{uuid.uuid4()}"
    body = {"name": "certcourier.probe", "request_identifier": probe, "data": {}}
    try:
        answer = session.post(services.webhook_url, json=body, timeout=_TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        yield critical(f"the webhook URL does not answer ({type(error).__name__})", _REACH)
        return
    with services.database.write() as database:
        seen = changed_rows(database.execute(delete(Event).where(Event.request_identifier == probe)))
    if answer.status_code == 404:
        yield critical(
            "the service at PUBLIC_URL does not accept our webhook secret",
            "check that all hosts use the same DATABASE_URL and key-encryption key, then restart",
        )
    elif answer.status_code != 200:
        yield critical(f"the webhook URL answers {answer.status_code}; DNSimple expects 200", _REACH)
    elif not seen:
        yield critical(
            "an event sent to PUBLIC_URL was acknowledged but is not in this database",
            "set the same DATABASE_URL on all hosts",
        )
    else:
        yield ok("an event sent through PUBLIC_URL arrived in this database")


def check_workers(context: CheckContext) -> Iterable[Finding]:
    """A worker is running, with the same code as the web server."""
    found = list(alert_findings(context, "workers"))
    with context.services.database.read() as session:
        now, last = read_now(session), session.scalar(select(func.max(Worker.last_heartbeat_at)))
        recorded = {role: entry.get(session) for role, entry in RUNNING_VERSIONS.items()}
    versions = {role: version for role, version in recorded.items() if version is not None}
    if not found and last is not None:
        found = [ok(f"a worker is running (heartbeat {max(0, (now - last).seconds)} s ago)")]
    yield from found
    outdated = sorted(role for role, version in versions.items() if version != code_version())
    if outdated:
        yield warning(f"{' and '.join(outdated)} run different code from this command", "restart them after an upgrade")
    elif versions:
        yield ok(f"{' and '.join(sorted(versions))} run the same code as this command ({code_version()})")
