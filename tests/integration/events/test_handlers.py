"""Events about certificates that we have: DNSimple is asked, and its answer is what is noted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from app.certificates.records import renewal_failure
from app.db.clock import db_now
from app.db.models import Certificate, Domain
from app.services import Services
from tests.support.harness import WEBHOOK_SECRET, drain, event
from tests.support.orders import order_and_fetch
from tests.support.simulator_process import Simulator

LIST = "/{account}/domains/{domain}/certificates"
FAILED = "certificate.auto_renewal_failed"


def hear(client: FlaskClient, services: Services, certificate_id: int, domain_id: int, name: str, **more: Any) -> None:
    """DNSimple posts it and the worker handles it; the domain was not checked recently."""
    with services.database.write() as session:
        session.execute(update(Domain).values(last_checked_at=db_now(-3600)))
    body = event(certificate_id, domain_id, name=name, **more)
    assert client.post(f"/dnsimple/events/{WEBHOOK_SECRET}", json=body).status_code == 200
    drain(services)


def certificate(services: Services, number: int) -> Certificate:
    with services.database.read() as session:
        return session.get_one(Certificate, number)


def problem(services: Services, number: int) -> str | None:
    with services.database.read() as session:
        return renewal_failure(session, number)


def steps(client: FlaskClient, number: int) -> list[str]:
    return [line["step"] for line in client.get(f"/certificates/{number}").json["data"]["timeline"]]


def test_a_failed_auto_renewal_is_recorded_with_its_remedy(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    hear(client, services, number, simulator.domain_id(domain), FAILED)
    assert "delegated only to DNSimple" in (problem(services, number) or "")
    assert steps(client, number)[-2:] == ["event received", "auto-renewal failed"]
    assert [call["path_template"] for call in simulator.calls()] == [LIST]


def test_a_failed_auto_renewal_that_has_succeeded_since_is_no_problem_but_a_certificate(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    old = order_and_fetch(client, services, simulator, domain)
    new = simulator.renew(old)
    hear(client, services, old, simulator.domain_id(domain), FAILED)
    assert problem(services, old) is None
    assert certificate(services, new).fetched_at is not None


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_auto_renewal_is_recorded_as_dnsimple_reports_it(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, *, before: bool, after: bool
) -> None:
    number = order_and_fetch(client, services, simulator, domain, auto_renew=before)
    simulator.control("POST", f"/auto_renew/{number}", {"enabled": after})
    name = f"certificate.auto_renewal_{'enable' if after else 'disable'}"
    hear(client, services, number, simulator.domain_id(domain), name)
    assert certificate(services, number).auto_renew is after
    assert steps(client, number)[-1] == "auto-renewal changed"


def test_an_event_that_is_not_true_changes_nothing(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number, domain_id = order_and_fetch(client, services, simulator, domain), simulator.domain_id(domain)
    before = steps(client, number)
    for name in ("certificate.auto_renewal_disable", "certificate.remove_private_key", "certificate.reissue"):
        hear(client, services, number, domain_id, name)
    assert certificate(services, number).auto_renew is True
    assert certificate(services, number).encrypted_key is not None
    assert steps(client, number) == before


@pytest.mark.parametrize("name", [FAILED, "certificate.auto_renewal_disable", "certificate.remove_private_key"])
def test_an_event_of_an_unknown_certificate_or_of_another_domain_costs_no_call(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, name: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    hear(client, services, number, 4711, name)
    hear(client, services, 900_000_001, simulator.domain_id(domain), name)
    assert simulator.calls() == []
    assert problem(services, number) is None


def test_many_events_of_a_certificate_cost_one_call_in_a_while(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number, domain_id = order_and_fetch(client, services, simulator, domain), simulator.domain_id(domain)
    hear(client, services, number, domain_id, FAILED)
    for _ in range(5):
        client.post(f"/dnsimple/events/{WEBHOOK_SECRET}", json=event(number, domain_id, name=FAILED))
        drain(services)
    assert len(simulator.calls()) == 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_removed_private_key_is_kept_or_dropped_by_policy(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, *, keep: bool
) -> None:
    policy = replace(services, settings=services.settings.model_copy(update={"keep_keys_removed_at_dnsimple": keep}))
    number = order_and_fetch(client, services, simulator, domain)
    simulator.control("POST", f"/remove_private_key/{number}", {})
    hear(client, policy, number, simulator.domain_id(domain), "certificate.remove_private_key")
    assert (certificate(services, number).encrypted_key is not None) is keep
    assert steps(client, number)[-1] == "private key removed"


def test_a_download_that_lags_is_not_taken_for_a_removed_key(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    policy = replace(services, settings=services.settings.model_copy(update={"keep_keys_removed_at_dnsimple": False}))
    number = order_and_fetch(client, services, simulator, domain)
    simulator.rates(not_issued=1)
    hear(client, policy, number, simulator.domain_id(domain), "certificate.remove_private_key")
    assert certificate(services, number).encrypted_key is not None


def test_a_reissued_certificate_is_fetched_and_delivered_in_place_of_the_first(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    number = order_and_fetch(client, services, simulator, domain)
    first = certificate(services, number)
    simulator.control("POST", "/clock", {"advance_seconds": 60})
    simulator.control("POST", f"/reissue/{number}", {})
    hear(client, services, number, simulator.domain_id(domain), "certificate.reissue")
    second = certificate(services, number)
    assert second.fingerprint != first.fingerprint
    served = services.settings.data_dir / "certificates" / f"www.{domain}" / "cert.pem"
    assert served.read_text() == second.leaf_pem
