"""Clients of the interface: what their tokens may do, for which domains, until when and how often."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app.auth.scopes import parse_patterns, permits
from app.auth.tokens import create_token, revoke_token
from app.db.clock import db_now
from app.db.models import ApiToken, AuditEntry, Order, RequestCount
from app.domain_names import InvalidFieldError
from app.jobs.kinds import JobKind
from app.services import Services
from app.web.auth import requires
from tests.support.command_line import run
from tests.support.harness import drain
from tests.support.records import add_order

OPEN = {
    "/healthz",
    "/readyz",
    "/dnsimple/events/<secret>",
    "/dashboard/sign-in",
    "/dashboard/static/<name>",
}


def client_for(app: Flask, token: str) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return client


def limited(app: Flask, services: Services, *domains: str) -> FlaskClient:
    return client_for(app, create_token(services.database, "limited", ("issue", "read"), domains=domains)[1])


def with_settings(app: Flask, **changes: Any) -> None:
    """As if the application had been started with these."""
    context = app.extensions["certcourier"]
    services = context.services
    object.__setattr__(context, "services", _replaced(services, settings=services.settings.model_copy(update=changes)))


def _replaced(services: Services, **changes: Any) -> Services:
    fields = {name: getattr(services, name) for name in services.__slots__}
    return Services(**fields | changes)


def audited(services: Services) -> list[tuple[str, str, str, dict[str, Any]]]:
    with services.database.read() as session:
        rows = session.scalars(select(AuditEntry).order_by(AuditEntry.id)).all()
    return [(row.actor, row.action, row.subject, json.loads(row.detail)) for row in rows]


def test_only_health_and_the_webhook_need_no_token(app: Flask, anonymous: FlaskClient) -> None:
    with_settings(app, failed_logins_per_minute=1000)
    asked = 0
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for argument in rule.arguments:
            path = path.replace(f"<id:{argument}>", "1").replace(f"<{argument}>", "x")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = anonymous.open(path, method=method)
            if rule.rule == "/" or rule.rule.startswith("/dashboard"):  # for people: they are sent to sign in
                if rule.rule not in OPEN:
                    assert answer.status_code in {303, 405}, (method, rule.rule)
                continue
            if method in (rule.methods or set()) and rule.rule not in OPEN:
                assert answer.status_code == 401, (method, rule.rule)
                asked += 1
            elif rule.rule not in OPEN:
                assert answer.status_code in {401, 405}, (method, rule.rule)
    assert asked > 8


@pytest.mark.parametrize(
    "header",
    [
        "Bearer ",
        "Bearer x",
        "Bearer certcourier_" + "a" * 43,
        "Bearer certcourier_" + "é" * 43,
        "Basic dXNlcjpwYXNz",
        "Digest x",
        "certcourier_" + "a" * 43,
        "Bearer \x00",
    ],
)
def test_a_wrong_token_is_refused(anonymous: FlaskClient, header: str) -> None:
    answer = anonymous.get("/orders", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers.getlist("WWW-Authenticate") == ['Bearer realm="certcourier"']


def test_a_page_challenges_browsers_for_basic_authentication(anonymous: FlaskClient) -> None:
    challenges = anonymous.get("/docs").headers.getlist("WWW-Authenticate")
    assert challenges == ['Bearer realm="certcourier"', 'Basic realm="certcourier"']


def test_scopes_decide_what_a_token_may_do(app: Flask, services: Services) -> None:
    tokens = {scope: create_token(services.database, scope, (scope,))[1] for scope in ("issue", "read", "admin")}
    statuses = {
        scope: (
            client_for(app, token).get("/orders").status_code,
            client_for(app, token).post("/issue_certificate", json={}).status_code,
        )
        for scope, token in tokens.items()
    }
    assert statuses == {"issue": (403, 400), "read": (200, 403), "admin": (200, 400)}


def test_an_order_outside_the_tokens_domains_is_refused_with_the_field_and_the_remedy(
    app: Flask, services: Services
) -> None:
    answer = limited(app, services, "*.example.com", "example.org").post(
        "/issue_certificate", json={"domain": "Example.com"}
    )
    assert answer.status_code == 403
    assert answer.json["type"] == "urn:certcourier:problem:domain-not-permitted"
    assert answer.json["errors"][0]["field"] == "domain"
    assert "--domains example.com" in answer.json["detail"]
    with services.database.read() as session:
        assert session.scalars(select(Order)).all() == []


def test_an_order_inside_the_tokens_domains_is_accepted(app: Flask, services: Services, domain: str) -> None:
    client = limited(app, services, domain)
    answer = client.post("/issue_certificate", json={"domain": domain})
    assert answer.status_code == 202
    assert client.get(f"/orders/{answer.json['data']['order_id']}").status_code == 200


def test_a_domain_restricted_token_reads_only_its_domains(app: Flask, services: Services) -> None:
    ours, theirs = add_order(services, "a.example.com", 1), add_order(services, "example.com", 2)
    add_order(services, "b.a.example.com", 3)
    client = limited(app, services, "*.example.com")
    assert [row["certificate_id"] for row in client.get("/certificates").json["data"]] == [3, 1]
    assert [row["domain"] for row in client.get("/orders").json["data"]] == ["b.a.example.com", "a.example.com"]
    assert client.get("/orders?domain=example.com").json["data"] == []
    assert client.get(f"/orders/{ours}").status_code == client.get("/certificates/1").status_code == 200
    assert client.get(f"/orders/{theirs}").status_code == client.get("/certificates/2").status_code == 404
    missing, hidden = client.get("/certificates/99").json, client.get("/certificates/2").json
    assert missing == hidden  # whether it exists is not revealed either


def test_pages_of_a_domain_restricted_token_have_no_gaps(app: Flask, services: Services) -> None:
    for number in range(1, 13):
        add_order(services, "a.example" if number % 3 else "b.example", number)
    client, found, path = limited(app, services, "b.example"), [], "/certificates?limit=1"
    while path:
        answer = client.get(path)
        found += [row["certificate_id"] for row in answer.json["data"]]
        path = answer.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert found == [12, 9, 6, 3]


@pytest.mark.parametrize(
    ("patterns", "domain", "permitted"),
    [
        ("example.org", "example.org", True),
        ("example.org", "a.example.org", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("example.org", "badexample.org", False),
        ("Bücher.example", "xn--bcher-kva.example", True),
        (" *.example.com , example.org ", "example.org", True),
    ],
)
def test_a_pattern_permits_exactly_its_domains(patterns: str, domain: str, permitted: bool) -> None:
    assert permits(parse_patterns(patterns), domain) is permitted


@pytest.mark.parametrize("text", ["", ",", "*", "*.*.example.com", "a*.example.com", "com", "https://example.com", "%"])
def test_an_invalid_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidFieldError, match="domains"):
        parse_patterns(text)


def test_an_expired_token_is_refused(app: Flask, services: Services) -> None:
    created, token = create_token(services.database, "soon over", ("read",), valid_seconds=3600)
    assert client_for(app, token).get("/orders").status_code == 200
    with services.database.write() as session:
        session.execute(update(ApiToken).where(ApiToken.id == created.id).values(expires_at=db_now(-0.001)))
    assert client_for(app, token).get("/orders").status_code == 401


def test_a_revoked_token_is_refused_by_every_process_at_once(app: Flask, services: Services) -> None:
    created, token = create_token(services.database, "x", ("read",))
    client = client_for(app, token)
    assert client.get("/orders").status_code == 200
    assert revoke_token(services.database, created.id)  # straight in the database, as from another host
    assert client.get("/orders").status_code == 401


def test_a_token_has_a_limit_of_requests_per_minute(app: Flask, services: Services) -> None:
    with_settings(app, token_requests_per_minute=3)
    _, token = create_token(services.database, "busy", ("read",))
    _, other = create_token(services.database, "other", ("read",))
    _spend(services, app, "token:", token)
    answer = client_for(app, token).get("/orders")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.json["type"] == "urn:certcourier:problem:too-many-requests"
    assert client_for(app, other).get("/orders").status_code == 200


def test_failed_logins_are_limited_but_a_valid_token_is_accepted(app: Flask, services: Services) -> None:
    with_settings(app, failed_logins_per_minute=3)
    _spend(services, app, "address:", "certcourier_" + "a" * 43)
    unauthenticated = client_for(app, "certcourier_" + "b" * 43).get("/orders")
    assert unauthenticated.status_code == 429
    assert 1 <= int(unauthenticated.headers["Retry-After"]) <= 60
    assert app.test_client().get("/orders").status_code == 429
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    assert app.test_client().get("/orders", environ_base=elsewhere).status_code == 401
    _, token = create_token(services.database, "same address", ("read",))
    assert client_for(app, token).get("/orders").status_code == 200


def _spend(services: Services, app: Flask, key: str, token: str) -> None:
    """Use up this minute's requests and the next one's, for the test may see its begin."""
    client_for(app, token).get("/orders")
    with services.database.write() as session:
        mine = RequestCount.key.startswith(key)
        session.execute(update(RequestCount).where(mine).values(used=1000, minute=RequestCount.minute + 1))
    app.extensions["certcourier"].limits._grants.clear()


def test_an_ipv6_network_counts_as_one_address(app: Flask, services: Services) -> None:
    for address in ("2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"):
        app.test_client().get("/orders", environ_base={"REMOTE_ADDR": address})
    with services.database.read() as session:
        keys = set(session.scalars(select(RequestCount.key)))
    assert keys == {"address:2001:db8::/64", "address:2001:db8:0:1::/64"}


def test_the_audit_trail_records_orders_and_reads(app: Flask, services: Services, domain: str) -> None:
    created, token = create_token(services.database, "billing", ("issue", "read"))
    client = client_for(app, token)
    placed = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    for _ in range(3):
        client.get(f"/certificates/{placed['certificate_id']}")
        client.get("/certificates")
    actor = f"token:{created.id} billing"
    assert audited(services)[1:] == [
        (actor, "order.placed", placed["order_id"], {"names": placed["names"]}),
        (actor, "certificate.read", str(placed["certificate_id"]), {}),
    ]


def test_an_existing_order_is_not_audited_again(app: Flask, services: Services, domain: str) -> None:
    client = client_for(app, create_token(services.database, "twice", ("issue",))[1])
    for _ in range(2):
        client.post("/issue_certificate", json={"domain": domain}, headers={"Prefer": "respond-async"})
    assert [entry[1] for entry in audited(services)] == ["token.created", "order.placed"]


def test_a_schema_upgrade_is_in_the_audit_trail_once(app: Flask, services: Services) -> None:
    run(app, "db", "downgrade", "base")
    run(app, "db", "upgrade")
    run(app, "db", "upgrade")
    ((actor, action, _, detail),) = audited(services)
    assert actor.startswith("operator:")
    assert (action, detail["before"]) == ("schema.upgraded", None)


def test_tokens_and_jobs_name_their_operator(app: Flask, services: Services) -> None:
    made = json.loads(run(app, "tokens", "create", "x", "--domains", "*.example.com", "--expires", "90d", "--json"))
    run(app, "tokens", "revoke", made["id"])
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE, delay=1000)
    run(app, "jobs", "cancel", "1")
    entries = audited(services)
    assert [entry[1:3] for entry in entries] == [
        ("token.created", made["id"]),
        ("token.revoked", made["id"]),
        ("job.cancelled", "1"),
    ]
    assert all(entry[0].startswith("operator:") and "@" in entry[0] for entry in entries)
    assert entries[0][3]["domains"] == ["*.example.com"]
    assert made["token"] not in json.dumps(entries)


def test_failed_logins_are_in_the_audit_trail_only_as_counts(app: Flask, services: Services) -> None:
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        app.test_client().get("/orders", environ_base={"REMOTE_ADDR": address})
    with services.database.write() as session:
        session.execute(update(RequestCount).values(minute=RequestCount.minute - 10))
        services.queue.enqueue(session, JobKind.PRUNE)
    drain(services)
    assert audited(services) == [("system", "logins.failed", "clients", {"failures": 3, "addresses": 2})]
    with services.database.read() as session:
        assert session.scalars(select(RequestCount)).all() == []


def test_the_list_shows_domains_and_expiry(app: Flask) -> None:
    run(app, "tokens", "create", "x", "--domains", "*.example.com,example.org", "--expires", "12h")
    (row,) = json.loads(run(app, "tokens", "list", "--json"))
    assert row["domains"] == "*.example.com,example.org"
    assert row["expires_at"] > row["created_at"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--expires", "soon"), "90d"),
        (("--expires", "0d"), "90d"),
        (("--domains", "*"), "domains"),
        (("--domains", "example.com", "--scope", "admin"), "admin"),
        (("--scope", "all"), "issue"),
    ],
)
def test_an_invalid_token_request_is_refused(app: Flask, arguments: tuple[str, ...], complaint: str) -> None:
    result = app.test_cli_runner().invoke(args=("tokens", "create", "x", *arguments))
    assert result.exit_code != 0
    assert complaint in result.output
    assert "No tokens" in run(app, "tokens", "list")


def test_a_domain_restricted_token_sees_no_unrestricted_page(extensible_app: Flask, services: Services) -> None:
    @extensible_app.get("/everything")
    @requires("read")
    def everything() -> str:
        return "all"

    answer = limited(extensible_app, services, "example.org").get("/everything")
    assert answer.status_code == 403
    assert answer.json["type"] == "urn:certcourier:problem:domain-restricted-token"
