"""Renewals ordered by the service: when the policy requires it, purchased once, and never beside one by DNSimple."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app.certificates.records import renewal_failure
from app.db.clock import db_now
from app.db.models import AuditEntry, Certificate, Delivery, Order, Quota, TimelineEntry
from app.jobs.kinds import JobKind, Priority
from app.services import Services
from tests.support.harness import drain, jobs, let_leases_end, make_due
from tests.support.orders import order_and_fetch
from tests.support.renewals import DAY, age, finish, renew, renewal_of, renewals
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

ORDER = "/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/renewals"
ISSUE = ORDER + "/{renewal}/issue"


@pytest.fixture
def services(services: Services) -> Services:
    """Policy: whatever is not renewed by DNSimple; a purchase that was lost is waited for a moment only."""
    more = {"renewal_policy": "overdue", "purchase_settle_seconds": 0.01}
    return replace(services, settings=services.settings.model_copy(update=more))


def with_policy(services: Services, policy: str) -> Services:
    return replace(services, settings=services.settings.model_copy(update={"renewal_policy": policy}))


def posts(simulator: Simulator) -> list[str]:
    return [call["path_template"] for call in simulator.calls() if call["method"] == "POST"]


def test_a_certificate_without_auto_renewal_is_renewed_and_delivered(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False, san=["shop"])
    age(services, old, days_left=25)
    assert renew(services) == ["renew_due", "advance_order"]
    finish(services, simulator, domain)
    order = renewal_of(services, old)
    assert order.state == "fetched"
    with services.database.read() as session:
        new = session.get_one(Certificate, order.certificate_id)
        was = session.get_one(Certificate, old)
        delivered = session.scalars(select(Delivery.state).where(Delivery.certificate_id == new.id)).all()
        timeline = session.scalars(select(TimelineEntry.step).where(TimelineEntry.order_id == order.id)).all()
    assert (new.lineage_id, new.names, new.auto_renew) == (was.lineage_id, was.names, False)
    assert delivered == ["delivered"]
    assert timeline == [
        "renewal ordered",
        "purchased",
        "issuance requested",
        "issued",
        "fetched",
        "verified",
        "delivered",
    ]
    assert posts(simulator) == [ORDER, ISSUE]


@pytest.mark.parametrize(
    ("policy", "auto_renew", "days_left", "lifetime", "expected"),
    [
        ("never", False, 1, 90, 0),
        ("without_auto_renew", False, 31, 90, 0),
        ("without_auto_renew", False, 22, 90, 1),
        ("without_auto_renew", False, 3.1, 6, 0),
        ("without_auto_renew", False, 2.5, 6, 1),
        ("without_auto_renew", True, 1, 90, 0),
        ("overdue", True, 23, 90, 0),
        ("overdue", True, 15, 90, 1),
        ("overdue", None, 15, 90, 1),
        ("overdue", True, 2.3, 6, 0),
        ("overdue", True, 1.5, 6, 1),
        ("overdue", True, -0.1, 90, 0),
    ],
)
def test_policy_and_lifetime_decide_when(
    client: FlaskClient,
    services: Services,
    simulator: Simulator,
    domain: str,
    policy: str,
    auto_renew: bool | None,
    days_left: float,
    lifetime: float,
    expected: int,
) -> None:
    old = order_and_fetch(client, services, simulator, domain)
    age(services, old, days_left=days_left, lifetime=lifetime)
    with services.database.write() as session:
        session.get_one(Certificate, old).auto_renew = auto_renew
    renew(with_policy(services, policy))
    assert renewals(services) == expected


def test_an_automatic_renewal_is_audited_like_a_requested_one(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=25)
    renew(services)
    with services.database.read() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "renewal.ordered")).one()
    assert (entry.actor, entry.subject) == ("system", str(old))
    reason = "auto-renewal at DNSimple is off"
    assert json.loads(entry.detail) == {"order_id": renewal_of(services, old).id, "reason": reason}


def test_what_dnsimple_has_renewed_already_is_fetched_and_not_purchased(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain)
    new = simulator.renew(old)  # and its event is lost
    simulator.reset_calls()
    age(services, old, days_left=10)
    renew(services)
    finish(services, simulator, domain)
    assert posts(simulator) == []
    assert (renewal_of(services, old).certificate_id, renewal_of(services, old).state) == (new, "fetched")


def test_a_successor_fetched_in_the_meantime_ends_the_renewal(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain)
    age(services, old, days_left=10)
    simulator.fault(method="GET", path_template="/{account}/domains/{domain}/certificates", action="status", status=503)
    renew(services)  # the order cannot look yet
    age(services, old, days_left=40)
    new = simulator.renew(old)
    with services.database.write() as session:
        services.queue.enqueue(
            session, JobKind.FETCH_CERTIFICATE, {"certificate_id": new, "domain_id": simulator.domain_id(domain)}
        )
    drain(services)
    simulator.reset_calls()
    make_due(services, "advance_order")
    drain(services)
    assert posts(simulator) == []
    assert (renewal_of(services, old).certificate_id, renewal_of(services, old).state) == (new, "fetched")


def test_one_renewal_is_in_flight_at_a_time(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=10)
    for _ in range(3):
        renew(services)
    assert renewals(services) == 1
    assert posts(simulator) == [ORDER, ISSUE]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_the_renewals_order_buys_nothing_twice(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, when: str
) -> None:
    """Its number is lost with it; DNSimple issues it by the certificate's own number."""
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=10)
    simulator.fault(method="POST", path_template=ORDER, when=when, action="reset")
    renew(services)
    for _ in range(3):
        make_due(services, "advance_order")
        drain(services)
    finish(services, simulator, domain)
    assert renewal_of(services, old).state == "fetched"
    assert len(simulator.certificates(domain)) == 2


def test_a_renewal_that_cannot_be_issued_without_its_id_is_ordered_again(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=10)
    simulator.fault(method="POST", path_template=ORDER, when="after", action="reset")
    by_certificate = "/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/issue"
    simulator.fault(
        method="POST", path_template=by_certificate, action="status", status=404, json={"message": "Not Found"}
    )
    renew(services)
    for _ in range(3):
        make_due(services, "advance_order")
        drain(services)
    finish(services, simulator, domain)
    assert renewal_of(services, old).state == "fetched"
    assert sorted(one["state"] for one in simulator.certificates(domain)) == ["issued", "issued", "new"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_the_renewals_issuance_request_is_recovered(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, when: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=10)
    simulator.fault(method="POST", path_template=ISSUE, when=when, action="status", status=502)
    renew(services)
    for _ in range(3):
        make_due(services, "advance_order")
        drain(services)
    finish(services, simulator, domain)
    assert renewal_of(services, old).state == "fetched"
    assert len(simulator.certificates(domain)) == 2


def test_a_failed_renewal_is_recorded_and_retried_a_day_later(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=10)
    simulator.outcome(domain, "failed")
    renew(services)
    failing = renewal_of(services, old)
    assert failing.certificate_id is not None
    simulator.wait_for_state(domain, failing.certificate_id, "failed")
    make_due(services, "poll_issuance")
    drain(services)
    assert renewal_of(services, old).state == "failed"
    with services.database.read() as session:
        assert "DNSimple reports the certificate as failed" in (renewal_failure(session, old) or "")
    simulator.outcome(domain, "issued")
    renew(services)
    assert renewals(services) == 1
    with services.database.write() as session:
        session.execute(update(Order).where(Order.id == failing.id).values(updated_at=db_now(-1.3 * DAY)))
    renew(services)
    finish(services, simulator, domain)
    assert renewal_of(services, old).state == "fetched"
    assert renewals(services) == 2


def test_a_renewal_of_a_short_certificate_times_out_while_there_is_time_for_another(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=2, lifetime=6)
    simulator.outcome(domain, "requesting")
    renew(services)
    order = renewal_of(services, old)
    for hours, state in ((11, "pending"), (13, "failed")):
        with services.database.write() as session:
            session.execute(update(Order).where(Order.id == order.id).values(created_at=db_now(-3600 * hours)))
        make_due(services, "poll_issuance")
        drain(services)
        assert renewal_of(services, old).state == state


def test_renewals_are_background_and_bounded_by_the_quota(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    numbers = [order_and_fetch(client, services, simulator, f"{n}-{domain}", auto_renew=False) for n in range(3)]
    for number in numbers:
        age(services, number, days_left=10)
    with services.database.write() as session:
        session.execute(update(Quota).values(call_limit=20))
    renew(services)
    assert renewals(services) == 2
    order_id = renewal_of(services, numbers[0]).id
    (job,) = [job for job in jobs(services, "advance_order") if job.args["order_id"] == order_id]
    assert job.priority == Priority.BACKGROUND


def test_a_renewals_job_is_taken_up_after_its_worker_died(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=False)
    age(services, old, days_left=10)
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.RENEW_DUE)
    (claim,) = services.queue.claim(1, worker_id="dies")
    assert claim.kind == "renew_due"
    let_leases_end(services)
    drain(services)
    finish(services, simulator, domain)
    assert renewal_of(services, old).state == "fetched"
