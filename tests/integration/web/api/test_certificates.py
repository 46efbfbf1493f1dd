"""Lists, health, the interface's document, and what is answered to the unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, text

from app import __version__
from app.auth.tokens import create_token, revoke_token
from app.db.models import ApiToken, Certificate, InstallationState, Order, Worker, new_id
from app.errors import PermanentError
from app.operations.health import claim_installation
from app.services import Services
from app.web.api.openapi import openapi_document
from tests.support.harness import make_services, make_settings


def add_certificates(services: Services, count: int) -> None:
    with services.database.write() as session:
        for number in range(1, count + 1):
            session.add(
                Certificate(
                    id=number,
                    account_id=1010,
                    domain="a.example" if number % 2 else "b.example",
                    state="issued" if number % 3 else "requesting",
                    common_name="x",
                    names=["x"],
                )
            )


def walk(client: FlaskClient, path: str) -> list[int]:
    found, pages = [], 0
    while path:
        answer = client.get(path)
        assert answer.status_code == 200
        found += [item["certificate_id"] for item in answer.json["data"]]
        link = answer.headers.get("Link", "")
        assert bool(link) == bool(answer.json["pagination"]["next_cursor"])
        path = link.partition("<")[2].partition(">")[0]
        pages += 1
        assert pages < 20
    return found


@pytest.mark.both_databases
def test_pages_have_no_gaps(client: FlaskClient, services: Services) -> None:
    add_certificates(services, 25)
    assert walk(client, "/certificates?limit=10") == list(range(25, 0, -1))
    assert walk(client, "/certificates?limit=25") == list(range(25, 0, -1))


@pytest.mark.both_databases
def test_filters_are_kept_from_page_to_page(client: FlaskClient, services: Services) -> None:
    add_certificates(services, 25)
    expected = [n for n in range(25, 0, -1) if n % 2 and n % 3]
    assert walk(client, "/certificates?limit=2&domain=A.example&state=issued") == expected


@pytest.mark.both_databases
def test_orders_are_listed_newest_first(client: FlaskClient, services: Services) -> None:
    ids = []
    with services.database.write() as session:
        for number in range(3):
            ids.append(f"ord_{number}")
            session.add(
                Order(
                    id=ids[-1],
                    account_id=1,
                    domain="a.example",
                    name="",
                    common_name="x",
                    san=[],
                    names=[],
                    auto_renew=True,
                    signature_algorithm="ECDSA",
                    state="failed",
                )
            )
    listed = client.get("/orders?state=failed&domain=a.example&limit=2").json
    assert [item["order_id"] for item in listed["data"]] == ids[:0:-1]
    rest = client.get(f"/orders?limit=2&cursor={listed['pagination']['next_cursor']}").json
    assert [item["order_id"] for item in rest["data"]] == ids[:1]


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("domain=a_b", "domain"),
        ("state=A%20B", "state"),
        ("state=nonsense", "state"),
        ("cursor=%21%21", "cursor"),
        ("cursor=eA==", "cursor"),
        ("cursor=4pyT", "cursor"),
        ("colour=red", "colour"),
    ],
)
def test_an_invalid_parameter_is_named(client: FlaskClient, query: str, field: str) -> None:
    answer = client.get(f"/certificates?{query}")
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (400, field)


@pytest.mark.parametrize(("path", "known"), [("/orders", "purchasing"), ("/certificates", "requesting")])
def test_an_unknown_state_is_refused_with_the_valid_states(client: FlaskClient, path: str, known: str) -> None:
    answer = client.get(f"{path}?state=isued")
    assert answer.status_code == 400
    assert known in answer.json["detail"]


@pytest.mark.both_databases
def test_a_new_state_of_dnsimple_can_be_filtered_by(client: FlaskClient, services: Services) -> None:
    with services.database.write() as session:
        session.add(
            Certificate(
                id=1, account_id=1, domain="a.example", common_name="a.example", names=["a.example"], state="pondering"
            )
        )
    assert [one["certificate_id"] for one in client.get("/certificates?state=pondering").json["data"]] == [1]


@pytest.mark.parametrize(
    "path", ["/certificates/5", "/certificates/99999999999999999999", "/certificates/x", "/orders/ord_x", "/nowhere"]
)
def test_an_unknown_path_is_a_404_problem_document(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


@pytest.mark.parametrize("path", ["/certificates", "/certificates/1", "/orders", "/orders/x", "/docs", "/openapi.json"])
def test_nothing_is_shown_without_a_token(anonymous: FlaskClient, path: str) -> None:
    assert anonymous.get(path).status_code == 401


def test_a_missing_scope_of_a_token_is_named(app: Flask, services: Services) -> None:
    _, token = create_token(services.database, "reader", ("read",))
    headers = {"Authorization": f"Bearer {token}"}
    assert app.test_client().get("/orders", headers=headers).status_code == 200
    answer = app.test_client().post("/issue_certificate", json={"domain": "a.example"}, headers=headers)
    assert (answer.status_code, answer.json["type"]) == (403, "urn:certcourier:problem:insufficient-scope")


def test_a_revoked_token_is_refused(app: Flask, services: Services) -> None:
    created, token = create_token(services.database, "x", ("read",))
    headers = {"Authorization": f"Bearer {token}"}
    assert app.test_client().get("/orders", headers=headers).status_code == 200
    assert revoke_token(services.database, created.id)
    assert app.test_client().get("/orders", headers=headers).status_code == 401


def test_a_token_is_stored_as_a_hash(services: Services) -> None:
    created, token = create_token(services.database, "x", ("read",))
    with services.database.read() as session:
        row = session.get_one(ApiToken, created.id)
        assert token not in json.dumps({name: str(value) for name, value in vars(row).items()})


def test_a_browser_may_send_the_token_as_a_password_to_the_page(app: Flask, services: Services) -> None:
    _, token = create_token(services.database, "x", ("read",))
    browser = app.test_client()
    page = browser.get("/docs", auth=("anybody", token))
    assert page.status_code == 200
    assert "POST /issue_certificate" in page.text
    assert "http" not in page.text.replace("http-equiv", ""), "the page needs another host"
    assert browser.get("/orders", auth=("anybody", token)).status_code == 401


def test_every_route_is_in_the_document(app: Flask) -> None:
    routes = {
        (rule.rule.replace("<id:", "<").replace("<", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule != "/" and not rule.rule.startswith("/dashboard")  # for people, in docs/dashboard.md
    }
    documented = {(path, method) for path, methods in openapi_document()["paths"].items() for method in methods}
    assert documented == routes


def test_every_reference_in_the_document_resolves(client: FlaskClient) -> None:
    answer = client.get("/openapi.json")
    document: Any = answer.json
    assert document["openapi"].startswith("3.1")
    for reference in {part.split('"')[0] for part in answer.text.split('"#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]


def test_the_process_answers(anonymous: FlaskClient) -> None:
    assert anonymous.get("/healthz").json == {"status": "ok"}


@pytest.mark.both_databases
def test_readiness_requires_a_worker(anonymous: FlaskClient, services: Services) -> None:
    answer = anonymous.get("/readyz")
    assert answer.status_code == 503
    assert "certcourier worker" in answer.json["checks"]["worker"]
    with services.database.write() as session:
        session.add(Worker(id=new_id("wrk"), host="h", pid=1))
    ready = anonymous.get("/readyz")
    assert (ready.status_code, ready.json["version"]) == (200, __version__)


@pytest.mark.both_databases
def test_readiness_requires_a_current_schema(anonymous: FlaskClient, services: Services) -> None:
    with services.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json["checks"]["migrations"]) == (
        503,
        "not current; run `certcourier db upgrade`",
    )


@pytest.mark.both_databases
def test_a_database_of_another_account_is_refused(services: Services) -> None:
    other = make_settings(
        services.settings.database_url,
        services.settings.dnsimple_base_url,
        services.settings.data_dir,
        dnsimple_account_id=2,
    )
    with pytest.raises(PermanentError, match="belongs to account 1010"):
        make_services(other)


def test_a_simulators_database_is_refused_for_a_real_account(services: Services) -> None:
    def of(base_url: str) -> Services:
        return make_services(make_settings(services.settings.database_url, base_url, services.settings.data_dir))

    of("http://localhost:1")  # a simulator on another port
    with pytest.raises(PermanentError, match="belongs to a simulated DNSimple"):
        of("https://api.dnsimple.com")
    with services.database.write() as session:
        session.execute(
            delete(InstallationState).where(InstallationState.name == "dnsimple")
        )  # as an earlier version has left it
    of("https://api.dnsimple.com")
    with pytest.raises(PermanentError, match=r"belongs to https://api\.dnsimple\.com"):
        of("https://api.sandbox.dnsimple.com")


def test_another_key_encryption_key_is_refused(services: Services, tmp_path: Any) -> None:
    other = make_settings(
        services.settings.database_url,
        services.settings.dnsimple_base_url,
        services.settings.data_dir,
        key_encryption_key_file=tmp_path / "other.key",
    )
    with pytest.raises(PermanentError, match="restore that key"):
        make_services(other)


@pytest.mark.both_databases
def test_missing_tables_are_reported_with_the_remedy(services: Services) -> None:
    with services.database.write() as session:
        session.execute(delete(Worker))
        session.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(PermanentError, match="certcourier db upgrade"):
        claim_installation(services)


def test_an_unexpected_error_reveals_no_internals(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.application.config["PROPAGATE_EXCEPTIONS"] = False

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr("app.web.api.certificates.queries.find_order", fail)
    answer = client.get("/orders/x")
    assert answer.status_code == 500
    assert answer.headers["X-Request-Id"]
    assert "inside" not in answer.text
