"""The dashboard: access, what the pages show, and that foreign input never becomes markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from app import create_app
from app.auth.tokens import create_token, revoke_token
from app.db.clock import db_now
from app.db.models import (
    AuditEntry,
    Base,
    Certificate,
    DashboardSession,
    Delivery,
    Event,
    Job,
    Lineage,
    Order,
    Quota,
    SuspendedDestination,
    TimelineEntry,
    Worker,
)
from app.jobs.kinds import JobKind
from app.operations.health import claim_installation
from app.operations.retention import prune
from app.renewals.forecast import compute_forecast
from app.services import Services
from app.web.dashboard.search import MOST
from config import Settings
from tests.support import databases
from tests.support.harness import ACCOUNT, jobs, make_settings

PAGES = ("", "/certificates", "/orders", "/events", "/jobs", "/destinations", "/dnsimple", "/audit")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Without a DNSimple: the dashboard never calls it."""
    return make_settings(database_url, "http://127.0.0.1:9", tmp_path / "var", failed_logins_per_minute=3)


@pytest.fixture
def browser(app: Flask, services: Services) -> FlaskClient:
    """A browser signed in with the `admin` scope."""
    return signed_in(app, services, "admin")


def signed_in(app: Flask, services: Services, *scopes: str, domains: list[str] | None = None) -> FlaskClient:
    browser = app.test_client()
    _, token = create_token(services.database, "Ann", scopes, domains=domains)
    assert browser.post("/dashboard/sign-in", data={"token": token}).status_code == 303
    return browser


def post(browser: FlaskClient, path: str, **fields: str) -> TestResponse:
    """A form as the page has it."""
    found = re.search(r'name="form_secret" value="(\w+)"', browser.get("/dashboard").text)
    assert found is not None
    return browser.post(path, data={"form_secret": found[1]} | fields)


def add(services: Services, *rows: Base) -> None:
    with services.database.write() as session:
        for row in rows:
            session.add(row)
            session.flush()


def certificate(services: Services, number: int, domain: str, *, days: float = 60, **more: Any) -> None:
    """A fetched certificate with a lifetime of 90 days, `days` of which are left."""
    now = datetime.now(UTC)
    lineage = {"names_digest": f"{number:064x}", "name": f"{domain}-{number}"}
    add(
        services,
        Lineage(id=number, account_id=ACCOUNT, domain=domain, **lineage),
        Certificate(
            **{
                "id": number,
                "account_id": ACCOUNT,
                "domain": domain,
                "lineage_id": number,
                "state": "issued",
                "common_name": f"www.{domain}",
                "names": [domain, f"www.{domain}"],
                "fingerprint": f"{number:064x}",
                "not_before": now - timedelta(days=90 - days),
                "not_after": now + timedelta(days=days, minutes=5),
                "fetched_at": now,
            }
            | more
        ),
    )


def dead_job(services: Services, **more: Any) -> int:
    args = {"certificate_id": 1, "destination": "files"}
    job = Job(**{"kind": "deliver", "args": args, "state": "dead", "finished_at": db_now()} | more)
    add(services, job)
    return job.id


def test_an_anonymous_visitor_sees_only_the_sign_in_form(app: Flask, services: Services) -> None:
    certificate(services, 1, "a.example")
    visitor = app.test_client()
    for page in (*PAGES, "/certificates/1", "/orders/ord_1"):
        answer = visitor.get(f"/dashboard{page}")
        assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/dashboard/sign-in"), page
    assert visitor.get("/dashboard/sign-in").status_code == 200


@pytest.mark.both_databases
def test_every_page_is_visible_to_a_token_with_the_scope_read(app: Flask, services: Services) -> None:
    certificate(services, 1, "a.example")
    browser = signed_in(app, services, "read")
    for page in (*PAGES, "/certificates/1"):
        answer = browser.get(f"/dashboard{page}")
        assert answer.status_code == 200, page
        assert answer.text.count("<h1>") == 1
        assert "<main" in answer.text


def test_signing_in_leads_to_the_requested_page(app: Flask, services: Services) -> None:
    browser = app.test_client()
    asked = browser.get("/dashboard/certificates?q=a.example")
    page = browser.get(asked.headers["Location"]).text
    assert 'name="next" value="/dashboard/certificates?q=a.example"' in page
    _, token = create_token(services.database, "Ann", ("read",))
    form = {"token": token, "next": "/dashboard/certificates?q=a.example"}
    assert browser.post("/dashboard/sign-in", data=form).headers["Location"] == form["next"]


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example", "/dashboardx", "/dashboard\\evil"])
def test_signing_in_never_redirects_to_another_site(app: Flask, services: Services, wanted: str) -> None:
    _, token = create_token(services.database, "Ann", ("read",))
    answer = app.test_client().post("/dashboard/sign-in", data={"token": token, "next": wanted})
    assert answer.headers["Location"] == "/dashboard"


def test_the_cookie_is_limited_to_this_site_and_is_not_the_token(app: Flask, services: Services) -> None:
    _, token = create_token(services.database, "Ann", ("read",))
    cookie = app.test_client().post("/dashboard/sign-in", data={"token": token}).headers["Set-Cookie"]
    assert cookie.startswith("certcourier=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=3600"} <= set(cookie.split("; "))
    assert token not in cookie
    with services.database.read() as session:
        digest = session.scalars(select(DashboardSession.digest)).one()
    assert digest not in cookie


def test_over_https_the_cookie_is_secure_and_bound_to_the_host(tmp_path: Path) -> None:
    url = databases.new_sqlite_database(tmp_path)
    app = create_app(make_settings(url, "http://127.0.0.1:9", tmp_path, public_url="https://certs.example.com"))
    services: Services = app.extensions["certcourier"].services
    claim_installation(services)
    _, token = create_token(services.database, "Ann", ("read",))
    cookie = app.test_client().post("/dashboard/sign-in", data={"token": token}).headers["Set-Cookie"]
    assert cookie.startswith("__Host-certcourier=")
    assert {"Secure", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    services.database.close()


@pytest.mark.both_databases
@pytest.mark.usefixtures("services")
def test_an_invalid_token_gets_no_session(app: Flask) -> None:
    browser = app.test_client()
    for token in ("", "certcourier_" + "A" * 43):
        answer = browser.post("/dashboard/sign-in", data={"token": token})
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
        assert 'role="alert"' in answer.text


def test_a_token_without_the_scope_read_is_refused_but_is_no_failed_attempt(app: Flask, services: Services) -> None:
    browser = app.test_client()
    _, issuer = create_token(services.database, "issuer", ("issue",))
    for _ in range(5):
        answer = browser.post("/dashboard/sign-in", data={"token": issuer})
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert "The token issuer is valid but lacks the `read` scope." in answer.text


def test_an_unknown_path_gets_an_error_page(app: Flask, browser: FlaskClient) -> None:
    answer = browser.get("/dashboard/xyz")
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "This page does not exist." in answer.text
    assert browser.get("/dashboard/").headers["Location"] == "/dashboard"
    assert app.test_client().get("/dashboard/xyz").headers["Location"].startswith("/dashboard/sign-in"), "for visitors"


def test_every_page_links_to_the_api_reference(browser: FlaskClient) -> None:
    assert '<a href="/docs">' in browser.get("/dashboard").text


def test_failed_sign_ins_are_slowed_but_a_valid_token_still_comes_in(app: Flask, services: Services) -> None:
    browser = app.test_client()
    statuses = [browser.post("/dashboard/sign-in", data={"token": "guess"}).status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert int(browser.post("/dashboard/sign-in", data={"token": "guess"}).headers["Retry-After"]) >= 1
    signed_in(app, services, "read")


def test_a_session_expires(browser: FlaskClient, services: Services) -> None:
    assert browser.get("/dashboard").status_code == 200
    with services.database.write() as session:
        session.execute(update(DashboardSession).values(expires_at=db_now(-1)))
    assert browser.get("/dashboard").status_code == 303


def test_a_session_ends_with_its_token(app: Flask, services: Services) -> None:
    client, token = create_token(services.database, "Ann", ("read",))
    browser = app.test_client()
    browser.post("/dashboard/sign-in", data={"token": token})
    assert browser.get("/dashboard").status_code == 200
    revoke_token(services.database, client.id)
    assert browser.get("/dashboard").status_code == 303


def test_signing_out_ends_the_session_itself(app: Flask, browser: FlaskClient) -> None:
    (cookie,) = [browser.get_cookie("certcourier")]
    assert cookie is not None
    assert post(browser, "/dashboard/sign-out").status_code == 303
    thief = app.test_client()
    thief.set_cookie("certcourier", cookie.value)
    assert thief.get("/dashboard").status_code == 303


@pytest.mark.both_databases
def test_expired_sessions_are_deleted(browser: FlaskClient, services: Services) -> None:
    assert browser.get("/dashboard").status_code == 200
    with services.database.write() as session:
        session.execute(update(DashboardSession).values(expires_at=db_now(-1)))
        services.queue.enqueue(session, JobKind.PRUNE)
    (claim,) = services.queue.claim(1, worker_id="test")
    prune(services, claim)
    with services.database.read() as session:
        assert session.scalars(select(DashboardSession)).all() == []


def test_signing_in_is_in_the_audit_trail(browser: FlaskClient, services: Services) -> None:
    assert browser.get("/dashboard").status_code == 200
    with services.database.read() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "dashboard.signed_in")).one()
    assert entry.actor.endswith(" Ann")


@pytest.mark.parametrize("secret", ["", "0" * 64, "\N{SNOWMAN}"])
def test_a_form_without_the_sessions_secret_does_nothing(browser: FlaskClient, services: Services, secret: str) -> None:
    job = dead_job(services)
    answer = browser.post(f"/dashboard/jobs/{job}/retry", data={"form_secret": secret})
    assert answer.status_code == 403
    assert [one.state for one in jobs(services)] == ["dead"]


def test_a_form_of_another_session_does_nothing(app: Flask, browser: FlaskClient, services: Services) -> None:
    job = dead_job(services)
    other = signed_in(app, services, "admin").get("/dashboard").text
    found = re.search(r'name="form_secret" value="(\w+)"', other)
    assert found is not None
    assert browser.post(f"/dashboard/jobs/{job}/retry", data={"form_secret": found[1]}).status_code == 403
    assert [one.state for one in jobs(services)] == ["dead"]


def test_a_form_from_another_site_cannot_sign_in(app: Flask, services: Services) -> None:
    _, token = create_token(services.database, "attacker", ("read",))
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = app.test_client().post("/dashboard/sign-in", data={"token": token}, headers=headers)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)


def test_an_api_token_is_not_accepted_as_a_session(client: FlaskClient) -> None:
    assert client.get("/dashboard").status_code == 303


@pytest.mark.both_databases
def test_a_dead_job_is_retried_on_behalf_of_the_token(browser: FlaskClient, services: Services) -> None:
    job = dead_job(services, last_error="the disk is full")
    page = browser.get("/dashboard/jobs").text
    assert "the disk is full" in page
    answer = post(browser, f"/dashboard/jobs/{job}/retry")
    assert "The job is queued again." in browser.get(answer.headers["Location"]).text
    assert [one.state for one in jobs(services)] == ["ready"]
    with services.database.read() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "job.retried")).one()
    assert (entry.actor.endswith(" Ann"), entry.subject) == (True, str(job))


def test_a_dead_job_that_cannot_be_retried_shows_what_to_do_instead(browser: FlaskClient, services: Services) -> None:
    job = dead_job(services, kind="poll_issuance")
    page = browser.get("/dashboard/jobs").text
    assert f"/dashboard/jobs/{job}/retry" not in page
    assert "its order has failed: order again" in page


def test_a_job_is_shown_without_arguments_that_are_not_set(browser: FlaskClient, services: Services) -> None:
    dead_job(services, args={"certificate_id": 1, "seen": False, "to": None, "polls": 0})
    assert ">certificate_id=1 polls=0</a>" in browser.get("/dashboard/jobs").text


def test_a_job_that_is_not_dead_is_left_alone(browser: FlaskClient, services: Services) -> None:
    job = dead_job(services)
    with services.database.write() as session:
        session.execute(update(Job).values(state="done"))
    answer = post(browser, f"/dashboard/jobs/{job}/retry")
    assert "This job is no longer dead." in browser.get(answer.headers["Location"]).text
    assert [one.state for one in jobs(services)] == ["done"]
    with services.database.read() as session:
        assert session.scalars(select(AuditEntry).where(AuditEntry.action == "job.retried")).all() == []


def test_a_read_only_token_sees_no_button_and_cannot_act(app: Flask, services: Services) -> None:
    job = dead_job(services)
    certificate(services, 1, "a.example")
    reader = signed_in(app, services, "read")
    assert "/retry" not in reader.get("/dashboard/jobs").text
    assert "/refetch" not in reader.get("/dashboard/certificates/1").text
    for path in (
        f"/jobs/{job}/retry",
        "/certificates/1/refetch",
        "/certificates/1/redeliver",
        "/destinations/x/resume",
    ):
        assert post(reader, f"/dashboard{path}").status_code == 403, path
    assert [one.state for one in jobs(services)] == ["dead"]


def test_every_button_needs_the_scope_admin_and_the_sessions_secret(app: Flask, services: Services) -> None:
    reader, admin = signed_in(app, services, "read"), signed_in(app, services, "admin")
    buttons = [
        rule.rule.replace("<id:job_id>", "1").replace("<id:certificate_id>", "1").replace("<name>", "x")
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/dashboard") and "POST" in (rule.methods or ()) and "sign-" not in rule.rule
    ]
    assert buttons
    for path in buttons:
        assert post(reader, path).status_code == 403, path
        assert admin.post(path).status_code == 403, path


def test_a_suspended_destination_is_resumed(browser: FlaskClient, services: Services) -> None:
    (name,) = services.destinations
    add(services, SuspendedDestination(destination=name, reason="410 Gone"))
    assert "410 Gone" in browser.get("/dashboard/destinations").text
    assert f"{name}: deliveries are suspended: 410 Gone" in browser.get("/dashboard").text
    assert post(browser, f"/dashboard/destinations/{name}/resume").status_code == 303
    assert "410 Gone" not in browser.get("/dashboard/destinations").text
    assert post(browser, f"/dashboard/destinations/{name}/resume").status_code == 404


def test_a_certificate_is_delivered_again(browser: FlaskClient, services: Services) -> None:
    (name,) = services.destinations
    certificate(services, 1, "a.example", encrypted_key=b"sealed")
    add(services, Delivery(certificate_id=1, destination=name, state="delivered"))
    answer = post(browser, "/dashboard/certificates/1/redeliver", destination=name)
    assert "The delivery is queued again." in browser.get(answer.headers["Location"]).text
    assert [(job.kind, job.args["certificate_id"]) for job in jobs(services)] == [("deliver", 1)]
    assert post(browser, "/dashboard/certificates/1/redeliver", destination="nowhere").status_code == 409


@pytest.mark.both_databases
def test_a_renewal_is_ordered_once_on_behalf_of_the_token(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example")
    answer = post(browser, "/dashboard/certificates/1/renew")
    assert "The renewal has been ordered." in browser.get(answer.headers["Location"]).text
    answer = post(browser, "/dashboard/certificates/1/renew")
    assert "A renewal is already in progress." in browser.get(answer.headers["Location"]).text
    with services.database.read() as session:
        order = session.scalars(select(Order)).one()
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "renewal.ordered")).one()
    assert order.renews_certificate_id == 1
    assert (entry.actor.endswith(" Ann"), entry.subject) == (True, "1")


def test_the_root_redirects_to_the_dashboard(anonymous: FlaskClient) -> None:
    answer = anonymous.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard")


def test_a_replaced_certificate_is_not_renewed(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example", days=20)
    certificate(services, 2, "a.example", lineage_id=1)
    assert "/renew" not in browser.get("/dashboard/certificates/1").text
    assert post(browser, "/dashboard/certificates/1/renew").status_code == 409


def test_an_older_certificate_is_not_delivered_over_a_newer_one(browser: FlaskClient, services: Services) -> None:
    (name,) = services.destinations
    certificate(services, 1, "a.example", days=20)
    certificate(services, 2, "a.example", lineage_id=1)
    assert "/redeliver" not in browser.get("/dashboard/certificates/1").text
    assert post(browser, "/dashboard/certificates/1/redeliver", destination=name).status_code == 409
    assert jobs(services) == []


@pytest.mark.both_databases
def test_alerts_are_grouped_by_kind_with_examples(browser: FlaskClient, services: Services) -> None:
    add(services, Worker(id="w", host="host", pid=1))
    for number in range(1, 5):
        certificate(services, number, f"a{number}.example")
        add(services, Delivery(certificate_id=number, destination="files", state="failed", detail="disk full"))
    dead_job(services, kind="refetch_key")
    page = browser.get("/dashboard").text
    assert "4 deliveries are failing or failed permanently" in page
    assert page.count("failed permanently: disk full") == 3
    assert "A job failed permanently" in page
    assert "quota" not in page[: page.index('id="status"')]


def test_a_private_key_is_fetched_again(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example")
    answer = post(browser, "/dashboard/certificates/1/refetch")
    assert "being fetched again" in browser.get(answer.headers["Location"]).text
    assert [(job.kind, job.args) for job in jobs(services)] == [("refetch_key", {"certificate_id": 1})]
    assert post(browser, "/dashboard/certificates/99/refetch").status_code == 404


@pytest.mark.both_databases
def test_the_overview_without_alerts(browser: FlaskClient, services: Services) -> None:
    add(services, Worker(id="w", host="host", pid=1))
    certificate(services, 1, "a.example")
    assert "No open alerts." in browser.get("/dashboard").text


@pytest.mark.both_databases
def test_the_overview_shows_critical_alerts_first(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example", days=5)
    dead_job(services, kind="refetch_key", last_error="no such key")
    add(
        services,
        Delivery(certificate_id=1, destination="files", state="failed", detail="no such folder"),
        Quota(
            account_id=ACCOUNT, call_limit=2400, remaining=40, unknown_left=1, window_seconds=3600,
            reset_at=datetime.now(UTC) + timedelta(hours=1),
        ),
    )  # fmt: skip
    page = browser.get("/dashboard").text
    for words in (
        "A renewal is overdue",
        "A delivery is failing or failed permanently",
        "A job failed permanently",
        "No worker is running",
        "DNSimple&#39;s API quota is nearly used up",
        "40 of 2400 API calls are left",
    ):
        assert words in page, words
    severities = re.findall(r'<span class="visually-hidden">(critical|warning): ', page)
    assert severities == ["critical"] * 4 + ["warning"]


def test_a_rejected_token_is_reported(browser: FlaskClient, services: Services) -> None:
    end = datetime.now(UTC) + timedelta(minutes=10)
    add(
        services,
        Quota(
            account_id=ACCOUNT, call_limit=2400, remaining=2000, unknown_left=1, window_seconds=3600, reset_at=end,
            blocked_until=end, blocked_reason="401", blocked_token=services.token_digest,
        ),
    )  # fmt: skip
    assert "DNSimple rejects the API token" in browser.get("/dashboard").text
    assert "stopped: DNSimple rejects our token" in browser.get("/dashboard/dnsimple").text
    with services.database.write() as session:
        session.execute(update(Quota).values(blocked_token="0" * 16))
    assert "DNSimple rejects the API token" not in browser.get("/dashboard").text, "another token is not ours"
    page = browser.get("/dashboard/dnsimple").text
    assert "rejects our token" not in page
    assert "paused" not in page


@pytest.mark.both_databases
def test_renewals_are_expected_thirty_days_before_expiry_and_not_of_what_was_replaced(services: Services) -> None:
    certificate(services, 1, "a.example", days=40)
    certificate(services, 2, "b.example", days=40, lineage_id=1, not_before=datetime.now(UTC) - timedelta(days=80))
    forecast = compute_forecast(services.database)
    assert forecast.days == {forecast.today + timedelta(days=10): 1}


def test_short_lived_certificates_are_expected_at_half_their_lifetime(services: Services) -> None:
    now = datetime.now(UTC)
    certificate(services, 1, "a.example", not_before=now, not_after=now + timedelta(days=6))
    forecast = compute_forecast(services.database)
    assert forecast.days == {forecast.today + timedelta(days=3): 1}


@pytest.mark.both_databases
def test_a_certificate_shows_its_timeline_in_order(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example")
    now = datetime.now(UTC)
    add(
        services,
        TimelineEntry(at=now, certificate_id=1, step="delivered", detail="to the files"),
        TimelineEntry(at=now - timedelta(minutes=2), certificate_id=1, step="pending", detail="at DNSimple"),
        Event(
            request_identifier="r1", name="certificate.issue", certificate_id=1, outcome="queued",
            received_at=now - timedelta(minutes=1),
        ),
        Delivery(certificate_id=1, destination="certificates", state="delivered", detail="here", delivered_at=now),
    )  # fmt: skip
    page = browser.get("/dashboard/certificates/1").text
    timeline = page[page.index('id="timeline"') :]
    places = [timeline.index(words) for words in ("at DNSimple", "certificate.issue: queued", "to the files")]
    assert places == sorted(places)
    assert f"{1:064x}" in page
    assert "www.a.example" in page


@pytest.mark.both_databases
def test_an_event_that_a_step_reports_is_shown_once(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example")
    at = datetime.now(UTC)
    about: dict[str, Any] = {"name": "certificate.issue", "certificate_id": 1}
    add(
        services,
        TimelineEntry(at=at, certificate_id=1, step="event received", detail="certificate.issue"),
        Event(request_identifier="r1", outcome="queued", received_at=at, **about),
        Event(request_identifier="r2", outcome="queued", received_at=at + timedelta(seconds=5), **about),
    )
    page = browser.get("/dashboard/certificates/1").text
    assert page.count("event received") == 1
    assert page.count("certificate.issue: queued") == 1, "the one that no step reports"


def names(answer: TestResponse) -> list[str]:
    assert answer.status_code == 200, answer.text
    return re.findall(r'<th scope="row"><a href="/dashboard/certificates/\d+">([^<]+)</a>', answer.text)


@pytest.fixture
def many(services: Services) -> Services:
    """Certificates of three customers."""
    certificate(services, 1, "alpha.example", days=80)
    certificate(services, 2, "alpine.example", days=10)
    certificate(services, 3, "beta-1.example", days=3, state="failed")
    add(
        services,
        Delivery(certificate_id=1, destination="files", state="delivered", detail=None),
        Delivery(certificate_id=2, destination="files", state="failing", detail="refused"),
    )
    return services


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["www.beta-1.example", "www.alpine.example", "www.alpha.example"]),
        ("q=alp", ["www.alpha.example", "www.alpine.example"]),
        ("q=ALPHA.example", ["www.alpha.example"]),
        ("q=deep.below.beta-1.example", ["www.beta-1.example"]),
        ("q=2", ["www.alpine.example"]),
        ("q=" + f"{3:064x}", ["www.beta-1.example"]),
        ("q=" + ":".join(re.findall("..", f"{3:064X}")), ["www.beta-1.example"]),
        ("q=nothing", []),
        ("q=%25", []),
        ("state=failed", ["www.beta-1.example"]),
        ("expiring=14", ["www.beta-1.example", "www.alpine.example"]),
        ("expiring=14&q=alpine.example", ["www.alpine.example"]),
        ("unsuccessful=1", ["www.alpine.example"]),
        ("destination=files", ["www.alpine.example", "www.alpha.example"]),
        ("destination=elsewhere", []),
        ("q=99999999999999999999999", []),
        ("q=a%00b", []),
    ],
)
@pytest.mark.usefixtures("many")
def test_the_search_finds_certificates(browser: FlaskClient, query: str, found: list[str]) -> None:
    assert names(browser.get(f"/dashboard/certificates?{query}")) == found


@pytest.mark.both_databases
@pytest.mark.parametrize("query", ["", "q=c", "expiring=30"])
def test_pages_have_no_gaps_and_no_duplicates(browser: FlaskClient, services: Services, query: str) -> None:
    end = datetime.now(UTC) + timedelta(days=20)
    for number in range(1, 121):  # many of the same domain and end, so that only the ID tells them apart
        certificate(services, number, f"c{number % 2}.example", not_after=end, common_name=f"n{number}.example")
    seen: list[str] = []
    path = f"/dashboard/certificates?{query}"
    for _ in range(3):
        answer = browser.get(path)
        seen += names(answer)
        link = re.search(r'href="([^"]+)" rel="next"', answer.text)
        path = link[1].replace("&amp;", "&") if link else ""
    assert path == ""
    assert len(seen) == len(set(seen)) == 120


@pytest.mark.both_databases
@pytest.mark.parametrize("cursor", ["x", "bnVsbA==", "WyJhIl0=", "WzEsMiwzXQ==", "LTE="])
@pytest.mark.parametrize("page", ["certificates", "certificates?q=a", "certificates?expiring=3", "events", "audit"])
def test_an_invalid_cursor_is_refused(browser: FlaskClient, page: str, cursor: str) -> None:
    answer = browser.get(f"/dashboard/{page}{'&' if '?' in page else '?'}cursor={cursor}")
    assert answer.status_code == 400
    assert "cursor" in answer.text


def test_a_link_to_the_next_page_stays_on_this_host(browser: FlaskClient, services: Services) -> None:
    for number in range(1, 61):
        certificate(services, number, "a.example")
    page = browser.get("/dashboard/certificates?_external=1&_scheme=javascript&_anchor=x").text
    assert re.findall(r'href="([^"?]+)[^"]*" rel="next"', page) == ["/dashboard/certificates"]


@pytest.mark.both_databases
def test_a_domain_restricted_token_sees_only_its_domains(app: Flask, many: Services) -> None:
    browser = signed_in(app, many, "read", domains=["alpha.example"])
    assert names(browser.get("/dashboard/certificates")) == ["www.alpha.example"]
    assert names(browser.get("/dashboard/certificates?q=alp")) == ["www.alpha.example"]
    assert names(browser.get("/dashboard/certificates?expiring=30")) == []
    assert browser.get("/dashboard/certificates/1").status_code == 200
    assert browser.get("/dashboard/certificates/2").status_code == 404
    overview = browser.get("/dashboard").text
    assert "deliveries are failing or failed permanently" not in overview
    assert "alpine" not in overview
    for page in ("/events", "/jobs", "/destinations", "/dnsimple", "/audit"):
        assert browser.get(f"/dashboard{page}").status_code == 403, page
        assert f'href="/dashboard{page}"' not in overview


@pytest.mark.both_databases
def test_foreign_input_never_becomes_markup(browser: FlaskClient, services: Services) -> None:
    certificate(services, 1, "a.example", common_name=SCRIPT, names=[SCRIPT], serial='"><img src=x>', leaf_pem=SCRIPT)
    failure = {"type": "refused", "title": "", "detail": SCRIPT}
    add(
        services,
        Order(
            id="ord_1", account_id=ACCOUNT, domain="a.example", name=SCRIPT, common_name=SCRIPT, san=[], names=[SCRIPT],
            auto_renew=True, signature_algorithm="RSA", state="failed", failure=failure,
        ),
        Delivery(certificate_id=1, destination="certificates", state="failed", detail=SCRIPT),
        TimelineEntry(certificate_id=1, order_id="ord_1", step="failed", detail=SCRIPT),
        Event(request_identifier=SCRIPT, name=SCRIPT, certificate_id=1, outcome="ignored"),
        SuspendedDestination(destination="certificates", reason=SCRIPT),
        Worker(id="w", host=SCRIPT, pid=1),
    )  # fmt: skip
    dead_job(services, last_error=SCRIPT)
    create_token(services.database, "<b>bold</b>", ("read",))
    seen = 0
    for page in (*PAGES, "/certificates/1", "/orders/ord_1", "/certificates?q=" + SCRIPT, '/orders?state="><x'):
        text = browser.get(f"/dashboard{page}").text
        assert "<script>" not in text, page
        assert "<img src=x" not in text
        assert "<b>bold" not in text
        seen += text.count("&lt;script&gt;alert(1)&lt;/script&gt;")
    assert seen >= 12


def test_every_page_forbids_foreign_and_inline_code(browser: FlaskClient) -> None:
    for page in (*PAGES, "/sign-in", "/nowhere"):
        answer = browser.get(f"/dashboard{page}")
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        if answer.status_code == 200:
            assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert " style=" not in answer.text
        assert not re.search(r"<script(?! src=)|\son\w+=", answer.text)
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.both_databases
@pytest.mark.parametrize("page", ["orders", "certificates"])
def test_an_unknown_state_is_an_error(browser: FlaskClient, page: str) -> None:
    answer = browser.get(f"/dashboard/{page}?state=isued")
    assert answer.status_code == 400
    assert "must be one of" in answer.text


def test_the_script_gets_a_fragment_and_a_browser_a_page(browser: FlaskClient) -> None:
    fragment = browser.get("/dashboard/jobs", headers={"X-Certcourier-Fragment": "1"}).text
    assert "Failed: will not run again until retried" in fragment
    assert "<html" not in fragment
    assert "<html" in browser.get("/dashboard/jobs").text


def test_only_the_static_files_need_no_session(app: Flask) -> None:
    visitor = app.test_client()
    for name in ("dashboard.css", "dashboard.js", "dashboard.svg"):
        answer = visitor.get(f"/dashboard/static/{name}")
        assert answer.status_code == 200
        again = visitor.get(f"/dashboard/static/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    assert visitor.get("/dashboard/static/docs.css").status_code == 404


@pytest.mark.both_databases
def test_counts_are_capped_at_a_thousand(browser: FlaskClient, services: Services) -> None:
    with services.database.write() as session:
        session.add_all(Job(kind="deliver", args={}) for _ in range(MOST + 5))
    assert "1,000+" in browser.get("/dashboard").text


@pytest.mark.both_databases
@pytest.mark.parametrize("path", ["/certificates/99999999999999999999", "/certificates/7", "/orders/ord_7"])
def test_a_missing_record_gets_an_error_page(browser: FlaskClient, path: str) -> None:
    answer = browser.get(f"/dashboard{path}")
    assert (answer.status_code, answer.content_type) == (404, "text/html; charset=utf-8")
