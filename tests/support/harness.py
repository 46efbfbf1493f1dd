"""Services on a real database against the simulator, and jobs run in the test's thread."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import select, update

from app import create_app
from app.db.clock import db_now
from app.db.models import Job, Quota
from app.jobs.kinds import JobKind
from app.logs import configure_logs
from app.operations.health import claim_installation
from app.services import Services, build_services
from app.web import context
from app.worker.worker import run_job
from config import Settings, load_settings

_apps: dict[str, Flask] = {}

ACCOUNT = 1010
TOKEN = "simulated-token"
WEBHOOK_SECRET = "webhook-secret-of-the-tests-Vq7Rk2Xz9Jm4Tb8W"


def make_settings(database_url: str, dnsimple_url: str, data_dir: Path, **more: Any) -> Settings:
    """Settings of a test; nothing comes from the environment's .env."""
    given = {
        "dnsimple_api_token": TOKEN,
        "dnsimple_account_id": ACCOUNT,
        "dnsimple_base_url": dnsimple_url,
        "public_url": "http://127.0.0.1:1",  # where no server listens
        "database_url": database_url,
        "data_dir": data_dir,
        "webhook_secret": WEBHOOK_SECRET,
        "log_format": "text",
        "log_level": "info",
        "_env_file": None,
    }
    assert more.keys() <= Settings.model_fields.keys(), "an unknown setting would be ignored"
    return load_settings(**(given | more))


def open_app(settings: Settings) -> Flask:
    """As `create_app` with new services; the routes, which take long to compile, are those of an earlier call."""
    of_services = {"database_url", "data_dir", "dnsimple_base_url", "key_encryption_key_file"}
    key = repr(settings.model_dump(exclude=of_services))
    if key not in _apps:
        _apps[key] = create_app(settings)
    else:
        configure_logs(settings.log_format, settings.log_level)
        context.bind(_apps[key], build_services(settings))
    return _apps[key]


def make_services(settings: Settings) -> Services:
    """Services as a process would have them."""
    services = build_services(settings)
    claim_installation(services)
    return services


def drain(services: Services, *, ahead: bool = False) -> list[str]:
    """Run all due jobs in this thread, and those they enqueue; with `ahead`, later ones too. Returns their kinds."""
    done: list[str] = []
    while len(done) < 200:
        if ahead:
            make_due(services)
        claims = services.queue.claim(1, worker_id="test")
        if not claims:
            return done
        run_job(services, claims[0])
        done.append(claims[0].kind)
    raise AssertionError(f"jobs keep enqueueing jobs: {done[-10:]}")


def make_due(services: Services, kind: str | None = None) -> None:
    """Make the waiting jobs due now."""
    change = update(Job).where(Job.state == "ready")
    with services.database.write() as session:
        session.execute((change.where(Job.kind == kind) if kind else change).values(run_at=db_now(-0.001)))


def let_leases_end(services: Services) -> None:
    """Let all leases expire, as if the processes that hold jobs had died."""
    with services.database.write() as session:
        session.execute(update(Job).where(Job.state == "running").values(lease_expires_at=db_now(-0.001)))


def let_stop_end(services: Services) -> None:
    """End the pause that follows a 401 or 429."""
    with services.database.write() as session:
        session.execute(update(Quota).values(blocked_until=db_now(-1)))


def jobs(services: Services, kind: str | None = None) -> list[Job]:
    """All jobs, or those of one kind, oldest first."""
    query = select(Job).order_by(Job.id)
    with services.database.read() as session:
        return list(session.scalars(query.where(Job.kind == kind) if kind else query))


def event(
    certificate_id: Any, domain_id: Any, *, name: str = "certificate.issue", account_id: Any = ACCOUNT, **more: Any
) -> dict[str, Any]:
    """An event as DNSimple posts it, reduced to the fields that are read and a few more."""
    return {
        "data": {"certificate": {"id": certificate_id, "domain_id": domain_id, "state": "issued", "csr": "..."}},
        "name": name,
        "actor": {"id": "system", "entity": "dnsimple", "pretty": "support@dnsimple.com"},
        "account": {"id": account_id, "display": "Test", "identifier": "test@example.com"},
        "api_version": "v2",
        "request_identifier": str(uuid.uuid4()),
        **more,
    }


def register_webhook(services: Services) -> None:
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
    drain(services)
