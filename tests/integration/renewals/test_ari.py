"""The authority wants certificates replaced early: they are, also those that DNSimple renews by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app.db.clock import db_now, read_now
from app.db.models import Certificate, RenewalInfo
from app.jobs.kinds import JobKind
from app.services import Services
from tests.support.harness import drain, jobs
from tests.support.orders import order_and_fetch
from tests.support.renewals import finish, renew, renewal_of, renewals
from tests.support.simulator_process import Simulator


@pytest.fixture
def services(services: Services, simulator: Simulator) -> Services:
    """No policy of our own, but an authority to ask."""
    simulator.control("DELETE", "/windows")
    ari = {"ari_url": f"{simulator.url}/renewal-info"}
    return replace(services, settings=services.settings.model_copy(update=ari))


def ask(services: Services) -> None:
    with services.database.write() as session:
        session.execute(update(RenewalInfo).values(next_ari_check_at=db_now(-1)))
        services.queue.enqueue(session, JobKind.REFRESH_ARI)
    drain(services)


def note(services: Services, certificate_id: int) -> RenewalInfo:
    with services.database.read() as session:
        return session.get_one(RenewalInfo, certificate_id)


def test_the_usual_window_is_recorded_and_nothing_is_renewed(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    ask(services)
    renew(services)
    known = note(services, number)
    with services.database.read() as session:
        now, certificate = read_now(session), session.get_one(Certificate, number)
    assert known.window_start is not None
    assert known.next_ari_check_at is not None
    assert certificate.not_after is not None
    assert timedelta(days=27) < certificate.not_after - known.window_start < timedelta(days=33)
    assert timedelta(hours=6) <= known.next_ari_check_at - now + timedelta(seconds=5) < timedelta(hours=6.7)
    assert (known.renew_at, renewals(services)) == (None, 0)


def test_it_is_asked_again_only_when_its_time_has_come(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    ask(services)
    first = note(services, number).next_ari_check_at
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.REFRESH_ARI)
    drain(services)
    assert note(services, number).next_ari_check_at == first


@pytest.mark.parametrize("auto_renew", [True, False])
def test_an_early_window_renews_whoever_renews_otherwise(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, *, auto_renew: bool
) -> None:
    old = order_and_fetch(client, services, simulator, domain, auto_renew=auto_renew)
    simulator.control("POST", "/windows", {"certificate_id": old, "explanation_url": "https://ca.example/incident"})
    ask(services)
    renew(services)
    finish(services, simulator, domain)
    order = renewal_of(services, old)
    assert (order.state, order.auto_renew) == ("fetched", auto_renew)
    assert (
        client.get(f"/certificates/{old}")
        .json["data"]["timeline"][-2]["detail"]
        .endswith("https://ca.example/incident")
    )
    ask(services)
    renew(services)
    assert renewals(services) == 1


def test_renewals_of_an_incident_are_spread_over_the_window(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    numbers = [order_and_fetch(client, services, simulator, f"{n}-{domain}") for n in range(4)]
    simulator.control("POST", "/windows", {"start_in": 0, "end_in": 86400})
    ask(services)
    drawn = [note(services, number).renew_at for number in numbers]
    assert None not in drawn
    assert len(set(drawn)) == len(numbers)
    ask(services)  # the same window again: nothing is drawn anew
    assert [note(services, number).renew_at for number in numbers] == drawn
    renew(services)
    with services.database.read() as session:
        due = session.scalars(select(RenewalInfo).where(RenewalInfo.renew_at <= db_now())).all()
    assert renewals(services) == len(due)


def test_an_incident_that_is_called_off_renews_nothing(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    simulator.control("POST", "/windows", {"start_in": 3600, "end_in": 7200})
    ask(services)
    assert note(services, number).renew_at is not None
    simulator.control("DELETE", "/windows")
    ask(services)
    assert note(services, number).renew_at is None


def test_an_unavailable_authority_is_not_asked_again_for_a_while(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    order_and_fetch(client, services, simulator, domain)
    silent = replace(services, settings=services.settings.model_copy(update={"ari_url": "http://127.0.0.1:9/none"}))
    ask(silent)
    (job,) = jobs(services, "refresh_ari")
    with services.database.read() as session:
        wait = job.run_at - read_now(session)
    assert (job.state, job.attempts) == ("ready", 0)
    assert timedelta(minutes=4) < wait < timedelta(minutes=6)


def test_a_certificate_of_another_authority_is_asked_for_once_a_day(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    elsewhere = {"ari_url": f"{simulator.url}/renewal-info/of/another"}
    ask(replace(services, settings=services.settings.model_copy(update=elsewhere)))
    with services.database.read() as session:
        now = read_now(session)
    next_ari_check_at = note(services, number).next_ari_check_at
    assert next_ari_check_at is not None
    assert timedelta(hours=23) < next_ari_check_at - now < timedelta(hours=25)
