"""Renewals made by Certcourier, with the certificates' ages and the jobs under the test's control."""

from __future__ import annotations

from sqlalchemy import select, update

from app.db.clock import db_now
from app.db.models import Certificate, Order
from app.jobs.kinds import JobKind
from app.services import Services
from tests.support.harness import drain, make_due
from tests.support.simulator_process import Simulator

DAY = 86400


def age(services: Services, certificate_id: int, *, days_left: float, lifetime: float = 90) -> None:
    times = {"not_before": db_now((days_left - lifetime) * DAY), "not_after": db_now(days_left * DAY)}
    with services.database.write() as session:
        session.execute(update(Certificate).where(Certificate.id == certificate_id).values(**times))


def renew(services: Services) -> list[str]:
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.RENEW_DUE)
    return drain(services)


def finish(services: Services, simulator: Simulator, domain: str) -> None:
    """Let DNSimple issue, and the polling job find it."""
    for certificate in simulator.certificates(domain):
        if certificate["state"] == "requesting":
            simulator.wait_until_issued(domain, certificate["id"])
    make_due(services, "poll_issuance")
    drain(services)


def renewal_of(services: Services, certificate_id: int) -> Order:
    with services.database.read() as session:
        query = select(Order).where(Order.renews_certificate_id == certificate_id).order_by(Order.id.desc())
        order = session.scalars(query).first()
        assert order is not None
        return order


def renewals(services: Services) -> int:
    with services.database.read() as session:
        return len(session.scalars(select(Order).where(Order.renews_certificate_id.is_not(None))).all())
