"""An order: on record before DNSimple is asked, resumable after any step, bought once whatever gets lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from app.auth.tokens import authenticate, create_token
from app.db.clock import db_now, move_ahead
from app.db.models import Certificate, Order, OrderState
from app.domain_names import OrderRequest
from app.orders import purchase_recovery
from app.orders.placement import submit_order
from app.services import Services
from tests.support.harness import drain, jobs, let_leases_end, let_stop_end, make_due
from tests.support.simulator_process import Simulator

PURCHASE = "/{account}/domains/{domain}/certificates/letsencrypt"
ISSUE = "/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/issue"
LIST = "/{account}/domains/{domain}/certificates"
SHOW = LIST + "/{certificate}"


def order_of(services: Services, order_id: str | None = None) -> Order:
    with services.database.read() as session:
        query = select(Order)
        return session.scalars(query.where(Order.id == order_id) if order_id else query).one()


def calls(simulator: Simulator, domain: str) -> list[str]:
    """The calls about this test's domain: one of an earlier test may end only now."""
    ours = [call for call in simulator.calls() if f"/domains/{domain}/" in call["path"]]
    return [f"{call['method']} {call['path_template']}" for call in ours]


@pytest.mark.both_databases
def test_an_order_is_answered_with_the_certificates_id_and_state(
    client: FlaskClient, simulator: Simulator, domain: str
) -> None:
    answer = client.post("/issue_certificate", json={"domain": domain, "san": ["docs"]})
    assert answer.status_code == 202
    data = answer.json["data"]
    assert data["certificate_id"] > 0
    assert data["common_name"] == f"www.{domain}"
    assert data["san"] == [f"docs.{domain}"]
    assert (data["state"], data["order_state"], data["auto_renew"]) == ("requesting", "pending", True)
    assert answer.headers["Location"] == f"/orders/{data['order_id']}"
    assert calls(simulator, domain) == [f"POST {PURCHASE}", f"POST {ISSUE}"]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_the_tutorials_form_works_at_the_tutorials_path(client: FlaskClient, domain: str, content_type: str) -> None:
    form = {"domain": domain, "name": "www", "alternate_names": "a,b", "auto_renewal": "false"}
    answer = client.post("/dnsimple/issue_certificate", data=form, content_type=content_type)
    assert answer.status_code == 202
    data = answer.json["data"]
    assert (data["san"], data["auto_renew"]) == ([f"a.{domain}", f"b.{domain}"], False)


def test_the_apex_alone_can_be_ordered(client: FlaskClient, domain: str) -> None:
    data = client.post("/issue_certificate", json={"domain": domain, "name": ""}).json["data"]
    assert (data["common_name"], data["names"]) == (domain, [domain])


@pytest.mark.both_databases
def test_an_identical_order_in_flight_is_returned(client: FlaskClient, simulator: Simulator, domain: str) -> None:
    first = client.post("/issue_certificate", json={"domain": domain, "san": ["a", "b"]})
    second = client.post("/issue_certificate", json={"domain": domain.upper(), "san": f"b,a.{domain}"})
    assert second.json["data"]["order_id"] == first.json["data"]["order_id"]
    assert len(calls(simulator, domain)) == 2


@pytest.mark.parametrize(
    "other", [{"san": ["a"]}, {"auto_renew": False}, {"signature_algorithm": "RSA"}, {"name": "x"}]
)
def test_an_order_that_differs_is_purchased(client: FlaskClient, domain: str, other: dict[str, Any]) -> None:
    first = client.post("/issue_certificate", json={"domain": domain})
    second = client.post("/issue_certificate", json={"domain": domain} | other)
    assert second.json["data"]["certificate_id"] != first.json["data"]["certificate_id"]


@pytest.mark.both_databases
def test_identical_concurrent_orders_are_purchased_once(client: FlaskClient, simulator: Simulator, domain: str) -> None:
    application, headers = client.application, {"Authorization": client.environ_base["HTTP_AUTHORIZATION"]}
    barrier = threading.Barrier(5)

    def order(_: int) -> str:
        barrier.wait()
        answer = application.test_client().post("/issue_certificate", json={"domain": domain}, headers=headers)
        return str(answer.json["data"]["order_id"])

    with ThreadPoolExecutor(5) as pool:
        assert len(set(pool.map(order, range(5)))) == 1
    assert calls(simulator, domain).count(f"POST {PURCHASE}") == 1


def test_after_it_has_ended_the_same_can_be_ordered_again(client: FlaskClient, services: Services, domain: str) -> None:
    first = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    with services.database.write() as session:
        session.execute(update(Order).values(state="fetched", in_flight_key=None))
    second = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    assert second["certificate_id"] > first["certificate_id"]


def test_respond_async_leaves_all_calls_to_the_workers(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    answer = client.post("/issue_certificate", json={"domain": domain}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    data = answer.json["data"]
    assert (data["order_state"], data["certificate_id"], data["state"]) == ("accepted", None, None)
    assert calls(simulator, domain) == []
    drain(services)
    assert order_of(services).state == "pending"


# Lost answers


@pytest.mark.both_databases
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", [{"action": "reset"}, {"action": "status", "status": 502, "body": "<html>"}])
def test_a_lost_purchase_is_never_repeated_blindly(
    client: FlaskClient,
    services: Services,
    simulator: Simulator,
    domain: str,
    when: str,
    fault: dict[str, Any],
) -> None:
    simulator.fault(method="POST", path_template=PURCHASE, when=when, **fault)
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert (answer.status_code, answer.json["data"]["order_state"]) == (202, "purchasing")
    make_due(services)
    assert drain(services)[0] == "advance_order"
    listed = calls(simulator, domain)[1]
    assert listed == "GET /{account}/domains/{domain}/certificates"
    if when == "after":
        assert order_of(services).state == "pending"
    else:  # nothing to be found: it is bought again, but not before the lost request can have settled
        assert order_of(services).state == "purchasing"
        with services.database.write() as session:
            session.execute(update(Order).values(purchase_attempted_at=db_now(-3600)))
        make_due(services)
        drain(services)
        assert order_of(services).state == "pending"
    assert len(simulator.certificates(domain)) == 1


@pytest.mark.both_databases
def test_a_lost_purchase_is_found_by_a_clock_that_is_ahead(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    move_ahead(2 * 3600)
    try:
        simulator.fault(method="POST", path_template=PURCHASE, when="after", action="reset")
        client.post("/issue_certificate", json={"domain": domain})
        make_due(services)
        drain(services)
        assert order_of(services).state == "pending"
    finally:
        move_ahead(-2 * 3600)
    assert len(simulator.certificates(domain)) == 1


@pytest.mark.both_databases
def test_the_adopted_certificate_is_the_one_that_was_purchased(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    """Neither an older one of the same names, nor a new one of other names."""
    first = client.post("/issue_certificate", json={"domain": domain}).json["data"]["certificate_id"]
    with services.database.write() as session:
        session.execute(update(Order).values(state="fetched", in_flight_key=None))
    simulator.fault(method="POST", path_template=PURCHASE, when="after", action="reset")
    second = client.post("/issue_certificate", json={"domain": domain}).json["data"]["order_id"]
    other = client.post("/issue_certificate", json={"domain": domain, "name": "api"}).json["data"]["certificate_id"]
    make_due(services, "advance_order")
    drain(services)
    adopted = order_of(services, second).certificate_id
    assert adopted is not None
    assert first < adopted < other


def test_a_lost_answer_to_the_issuance_request_is_recovered(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    for when in ("after", "before"):
        simulator.reset_calls()
        simulator.fault(method="POST", path_template=ISSUE, when=when, action="reset")
        answer = client.post("/issue_certificate", json={"domain": domain, "name": when})
        assert answer.json["data"]["order_state"] == "requesting"
        make_due(services, "advance_order")
        drain(services)
        assert order_of(services, answer.json["data"]["order_id"]).state == "pending"
        assert calls(simulator, domain).count(f"POST {ISSUE}") == (1 if when == "after" else 2)


def test_a_connection_that_is_refused_is_simply_tried_again(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    simulator.fault(
        method="POST", path_template=PURCHASE, action="status", status=429, body='{"message": "quota exceeded"}'
    )
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert (answer.status_code, answer.json["data"]["order_state"]) == (202, "accepted")
    make_due(services)
    drain(services)
    assert order_of(services).state == "pending"
    assert calls(simulator, domain) == [f"POST {PURCHASE}", f"POST {PURCHASE}", f"POST {ISSUE}"]


def test_dnsimple_being_slow_costs_the_caller_only_its_patience(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    patient = services.settings.model_copy(update={"order_wait_seconds": 2})
    object.__setattr__(services, "settings", patient)
    simulator.fault(method="POST", path_template=PURCHASE, when="after", action="none", delay_seconds=6)
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert (answer.status_code, answer.json["data"]["order_state"]) == (202, "purchasing")
    simulator.wait_for_certificates(domain, 1)
    make_due(services)
    drain(services)
    assert order_of(services).state == "pending"
    assert len(simulator.certificates(domain)) == 1


@pytest.mark.both_databases
@pytest.mark.parametrize("state", ["accepted", "purchasing", "purchased", "requesting"])
def test_an_order_whose_process_died_is_taken_up(
    services: Services, simulator: Simulator, domain: str, state: str
) -> None:
    """As the order's row is when a process is killed right after the commit that led to the state."""
    request = OrderRequest(domain)
    submit_order(
        services.database,
        services.queue,
        services.account_id,
        request,
        client_id=_client_id(services),
        idempotency_key=None,
        hold_seconds=3600,
    )
    if state != "accepted":
        bought = simulator.purchase(domain)
    with services.database.write() as session:
        order = session.scalars(select(Order)).one()
        order.state = OrderState(state)
        if state == "purchasing":
            order.purchase_attempted_at = db_now()
        if state in {"purchased", "requesting"}:
            order.certificate_id = bought
            session.add(
                Certificate(
                    id=bought,
                    account_id=1010,
                    domain=domain,
                    order_id=order.id,
                    state="new",
                    common_name=order.common_name,
                    names=order.names,
                )
            )
    assert drain(services) == []
    let_leases_end(services)
    drain(services)
    assert order_of(services).state == "pending"
    assert len(simulator.certificates(domain)) == 1


def _client_id(services: Services) -> str:
    return create_token(services.database, "x", ("issue",))[0].id


# What DNSimple refuses

_REFUSALS = [
    (400, {"message": "Validation failed", "errors": {"name": ["is bad"]}}, "refused", "order again"),
    (402, {"message": "unpaid"}, "payment-required", "Pay"),
    (403, {"message": "Permission Denied. Required Scope: x"}, "token-not-permitted", "Grant the API token"),
    (404, {"message": "Domain `x` not found"}, "domain-not-in-account", "Add"),
    (412, {"message": "Let's Encrypt feature is not enabled for the account X"}, "plan-limit", "Enable Let's Encrypt"),
    (412, {"message": "requires the custom-name feature that"}, "plan-limit", "custom names"),
    (412, {"message": "requires the SAN feature that is"}, "plan-limit", "without `san`"),
    (412, {"message": "requires the wildcard feature"}, "plan-limit", "wildcards"),
]


@pytest.mark.parametrize(("status", "body", "kind", "remedy"), _REFUSALS)
@pytest.mark.parametrize("path", [PURCHASE, ISSUE])
def test_a_refusal_reaches_the_caller_and_is_kept(
    client: FlaskClient,
    services: Services,
    simulator: Simulator,
    domain: str,
    path: str,
    status: int,
    body: dict[str, Any],
    kind: str,
    remedy: str,
) -> None:
    simulator.fault(method="POST", path_template=path, action="status", status=status, json=body)
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert answer.json["type"] == f"urn:certcourier:problem:{kind}"
    assert remedy in answer.json["detail"]
    assert body["message"] in answer.json["error"]["message"]
    assert (answer.json["dnsimple"]["status"], answer.json["dnsimple"]["message"]) == (status, body["message"])
    order = order_of(services)
    assert order.state == "failed"
    assert answer.json["order_id"] == order.id
    assert order.failure is not None
    assert remedy in order.failure["detail"]
    assert drain(services, ahead=True) == []


@pytest.mark.parametrize("status", [402, 403])
@pytest.mark.parametrize(("path", "look"), [(PURCHASE, LIST), (ISSUE, SHOW)])
def test_a_refused_search_loses_no_certificate(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, path: str, look: str, status: int
) -> None:
    """It is bought, its answer is lost, and then the account is at fault for a while."""
    simulator.fault(method="POST", path_template=path, when="after", action="reset")
    simulator.fault(
        method="GET", path_template=look, action="status", status=status, json={"message": "not now"}, times=2
    )
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert answer.status_code == 202
    for _ in range(2):
        drain(services, ahead=True)
    assert order_of(services).state in {"pending", "issued", "fetched"}
    assert len(simulator.certificates(domain)) == 1


def test_a_domain_that_is_not_in_the_account_is_refused(client: FlaskClient, simulator: Simulator) -> None:
    answer = client.post("/issue_certificate", json={"domain": "stranger.example"})
    assert (answer.status_code, answer.json["type"]) == (400, "urn:certcourier:problem:domain-not-in-account")
    assert "Add stranger.example to the DNSimple account" in answer.json["detail"]
    assert calls(simulator, "stranger.example") == [f"POST {PURCHASE}"]


def test_field_errors_of_dnsimple_are_passed_on(client: FlaskClient, simulator: Simulator, domain: str) -> None:
    body = {"message": "Validation failed", "errors": {"name": ["is bad", "is sad"]}}
    simulator.fault(method="POST", path_template=PURCHASE, action="status", status=400, json=body)
    errors = client.post("/issue_certificate", json={"domain": domain}).json["errors"]
    assert errors == [{"field": "name", "message": "is bad"}, {"field": "name", "message": "is sad"}]


def test_a_rejected_token_fails_no_order_and_does_not_loop(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    body = {"message": "Authentication failed"}
    simulator.fault(method="POST", path_template=PURCHASE, action="status", status=401, json=body)
    assert client.post("/issue_certificate", json={"domain": domain}).json["data"]["order_state"] == "accepted"
    for _ in range(3):
        make_due(services)
        assert drain(services) == ["advance_order"]
    assert len(calls(simulator, domain)) == 1, "all calls are stopped"
    (job,) = jobs(services, "advance_order")
    assert (job.state, job.attempts) == ("ready", 1)
    let_stop_end(services)
    make_due(services)
    drain(services)
    assert order_of(services).state == "pending"


# Idempotency-Key


@pytest.mark.both_databases
def test_the_same_key_and_order_replay_the_first_answer(
    client: FlaskClient, simulator: Simulator, services: Services, domain: str
) -> None:
    key = {"Idempotency-Key": '"k1"'}
    first = client.post("/issue_certificate", json={"domain": domain}, headers=key)
    with services.database.write() as session:
        session.execute(update(Order).values(state="fetched", in_flight_key=None))
    second = client.post("/issue_certificate", data={"domain": domain}, headers={"Idempotency-Key": "k1"})
    assert (second.status_code, second.json) == (202, first.json)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.headers["Location"] == first.headers["Location"]
    assert len(calls(simulator, domain)) == 2


def test_a_refusal_is_replayed_too(client: FlaskClient, simulator: Simulator, domain: str) -> None:
    simulator.fault(method="POST", path_template=PURCHASE, action="status", status=402, json={"message": "unpaid"})
    answers = [
        client.post("/issue_certificate", json={"domain": domain}, headers={"Idempotency-Key": "k1"}) for _ in range(2)
    ]
    assert answers[0].json == answers[1].json
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[1].content_type == "application/problem+json"
    assert len(calls(simulator, domain)) == 1


def test_the_same_key_with_another_order_is_refused(client: FlaskClient, domain: str) -> None:
    client.post("/issue_certificate", json={"domain": domain}, headers={"Idempotency-Key": "k1"})
    answer = client.post("/issue_certificate", json={"domain": domain, "san": "x"}, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 422


@pytest.mark.both_databases
def test_a_key_whose_first_request_is_not_answered_yet_is_a_conflict(
    client: FlaskClient, services: Services, domain: str
) -> None:
    client_id = _client_of(client, services)
    submit_order(
        services.database,
        services.queue,
        services.account_id,
        OrderRequest(domain),
        client_id=client_id,
        idempotency_key="k1",
        hold_seconds=3600,
    )
    answer = client.post("/issue_certificate", json={"domain": domain}, headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "2")
    let_leases_end(services)  # its process is dead
    answer = client.post("/issue_certificate", json={"domain": domain}, headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json["data"]["order_state"]) == (202, "accepted")


def test_keys_of_two_clients_are_two_keys(client: FlaskClient, services: Services, domain: str) -> None:
    _, token = create_token(services.database, "other", ("issue",))
    for body, headers in (
        ({"domain": domain}, {}),
        ({"domain": domain, "san": "x"}, {"Authorization": f"Bearer {token}"}),
    ):
        answer = client.post("/issue_certificate", json=body, headers={"Idempotency-Key": "k1", **headers})
        assert answer.status_code == 202


def _client_of(client: FlaskClient, services: Services) -> str:
    found = authenticate(services.database, client.environ_base["HTTP_AUTHORIZATION"].removeprefix("Bearer "))
    assert found is not None
    return found.id


@pytest.mark.both_databases
def test_an_order_is_on_record_before_dnsimple_is_asked(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    """The database goes away before the order can be committed: nothing is asked of DNSimple."""
    with services.database.write() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO jobs_gone"))
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert calls(simulator, domain) == []
    with services.database.read() as session:
        assert session.scalar(select(Order.id)) is None


@pytest.mark.both_databases
def test_two_orders_never_adopt_the_same_certificate(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look at the same moment: each sees the newest certificate, and neither knows that the other takes it."""
    simulator.fault(method="POST", path_template=PURCHASE, when="after", action="reset", times=2)
    for auto_renew in (True, False):
        client.post("/issue_certificate", json={"domain": domain, "auto_renew": auto_renew})
    unaware = iter([False, False])
    known = purchase_recovery._is_known
    monkeypatch.setattr(purchase_recovery, "_is_known", lambda *given: next(unaware, None) is None and known(*given))
    make_due(services)
    drain(services)
    with services.database.read() as session:
        adopted = [(order.state, order.certificate_id) for order in session.scalars(select(Order))]
    assert [state for state, _ in adopted] == ["pending", "pending"]
    assert {number for _, number in adopted} == {item["id"] for item in simulator.certificates(domain)}


@pytest.mark.both_databases
def test_a_database_that_goes_away_after_the_commit_is_not_said_to_have_lost_the_order(
    client: FlaskClient, services: Services, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr("app.web.api.issue.find_order", fail)
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert answer.status_code == 503
    assert "is stored and continues" in answer.json["detail"]
    assert answer.headers["Location"] == f"/orders/{order_of(services).id}" == f"/orders/{answer.json['order_id']}"
