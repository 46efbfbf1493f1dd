"""`kill -9` at every commit of a renewal ordered by Certcourier: it still completes, and is purchased once."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from app import create_app
from app.auth.tokens import create_token
from app.db.models import Certificate, Delivery, Job, Order
from app.operations.health import claim_installation
from app.services import Services
from config import Settings
from tests.chaos.boundaries import When, chaos_settings, die_at
from tests.support.harness import drain, let_leases_end
from tests.support.orders import order_and_fetch
from tests.support.renewals import age, finish, renew, renewal_of
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_renewal_survives_a_kill_at_every_commit(
    database_url: str, simulator: Simulator, tmp_path: Path, when: When
) -> None:
    settings = chaos_settings(database_url, simulator, tmp_path)
    settings = settings.model_copy(update={"renewal_policy": "without_auto_renew"})
    found: dict[int, list[str]] = {}
    killed = 0
    for commit in count(1):
        domain = f"{when}{commit}.example"
        services, client = _open(settings)
        old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
        age(services, old, days_left=10)
        services.database.close()
        was_killed = _renew_in_a_child(settings, commit, when)
        killed += was_killed
        violations = _resume(settings, simulator, domain, old)
        if violations:
            found[commit] = violations
        if not was_killed:
            break
    assert found == {}
    assert killed >= 12


def _open(settings: Settings) -> tuple[Services, FlaskClient]:
    app = create_app(settings)
    services: Services = app.extensions["certcourier"].services
    claim_installation(services)
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = (
        f"Bearer {create_token(services.database, 'tests', ('issue', 'read'))[1]}"
    )
    return services, client


def _renew_in_a_child(settings: Settings, commit: int, when: When) -> bool:
    """Whether the child was killed: it has that many commits."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            services, _ = _open(settings)
            die_at(services.database, commit, when)
            renew(services)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}, f"the child ended with status {status}"
    return status != 0


def _resume(settings: Settings, simulator: Simulator, domain: str, old: int) -> list[str]:
    """Resume as the workers would. Returns the violations."""
    services, _ = _open(settings)
    let_leases_end(services)
    renew(services)  # as the next period does
    drain(services, ahead=True)
    finish(services, simulator, domain)
    order = renewal_of(services, old)
    with services.database.read() as session:
        placed = session.scalars(select(Order).where(Order.renews_certificate_id == old)).all()
        certificates = session.scalars(select(Certificate).where(Certificate.domain == domain)).all()
        deliveries = session.scalars(select(Delivery.state).join(Certificate).where(Certificate.domain == domain)).all()
        unfinished = session.scalars(select(Job.kind).where(Job.finished_at.is_(None))).all()
    services.database.close()
    checks = {
        "one order": len(placed) == 1,
        "fetched": order.state == "fetched",
        "purchased once": [one["state"] for one in simulator.certificates(domain)] == ["issued", "issued"],
        "one lineage": len({one.lineage_id for one in certificates}) == 1,
        "both delivered": deliveries == ["delivered", "delivered"],
        "nothing unfinished": not unfinished,
    }
    return [name for name, holds in checks.items() if not holds]
