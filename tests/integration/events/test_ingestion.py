"""The webhook: an event is acknowledged once it is committed together with its job, and only then."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text

from app.db.models import Event
from app.services import Services
from tests.support.harness import WEBHOOK_SECRET, event, jobs

PATH = f"/dnsimple/events/{WEBHOOK_SECRET}"


def recorded(services: Services) -> list[Event]:
    with services.database.read() as session:
        return list(session.scalars(select(Event)))


@pytest.mark.both_databases
def test_an_event_is_recorded_with_its_job(anonymous: FlaskClient, services: Services) -> None:
    answer = anonymous.post(PATH, json=event(101967, 5))
    assert (answer.status_code, answer.json) == (200, {"data": {"outcome": "queued"}})
    assert [(row.certificate_id, row.domain_id, row.outcome) for row in recorded(services)] == [(101967, 5, "queued")]
    assert [job.args["certificate_id"] for job in jobs(services)] == [101967]


@pytest.mark.both_databases
def test_the_same_event_again_makes_no_second_job(anonymous: FlaskClient, services: Services) -> None:
    body = event(101967, 5)
    outcomes = [anonymous.post(PATH, json=body).json["data"]["outcome"] for _ in range(3)]
    assert outcomes == ["queued", "duplicate", "duplicate"]
    assert (len(recorded(services)), len(jobs(services))) == (1, 1)


@pytest.mark.both_databases
def test_the_same_event_at_the_same_instant_makes_one_job(anonymous: FlaskClient, services: Services) -> None:
    body, barrier = event(101967, 5), threading.Barrier(6)
    application = anonymous.application

    def post(_: int) -> str:
        barrier.wait()
        return str(application.test_client().post(PATH, json=body).json["data"]["outcome"])

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(post, range(6))) == ["duplicate"] * 5 + ["queued"]
    assert (len(recorded(services)), len(jobs(services))) == (1, 1)


@pytest.mark.both_databases
def test_two_events_of_one_certificate_make_one_job(anonymous: FlaskClient, services: Services) -> None:
    for _ in range(2):
        anonymous.post(PATH, json=event(101967, 5))
    assert (len(recorded(services)), len(jobs(services))) == (2, 1)


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "body",
    [
        event(1, 1, name="zone_record.create"),
        event(1, 1, name="certificate.something_new", data={"anything": ["else"]}),
        event(1, 1, name="webhook.create", data={"webhook": {"id": 1, "url": "https://other.example/secret"}}),
        {"name": "domain.delete", "request_identifier": "x", "data": None},
    ],
)
def test_other_events_are_recorded_and_ignored(anonymous: FlaskClient, services: Services, body: Any) -> None:
    assert anonymous.post(PATH, json=body).status_code == 200
    assert [row.name for row in recorded(services)] == [body["name"]]
    assert jobs(services) == []


def test_an_event_of_another_account_is_recorded_and_ignored(anonymous: FlaskClient, services: Services) -> None:
    assert anonymous.post(PATH, json=event(1, 1, account_id=2)).json["data"]["outcome"] == "other_account"
    assert jobs(services) == []


def test_unknown_fields_are_tolerated(anonymous: FlaskClient, services: Services) -> None:
    body = event(1, 1, new_field={"a": 1}, api_version="v3")
    body["data"]["certificate"] |= {"state": "hibernating", "new": True}
    assert anonymous.post(PATH, json=body).status_code == 200
    assert len(jobs(services)) == 1


BAD = event(1, 1)


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 50_000, "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        ({k: v for k, v in BAD.items() if k != "request_identifier"}, "request_identifier"),
        (BAD | {"request_identifier": ""}, "request_identifier"),
        (BAD | {"request_identifier": 5}, "request_identifier"),
        (BAD | {"request_identifier": "x" * 200}, "request_identifier"),
        (BAD | {"request_identifier": "a\x00b"}, "request_identifier"),
        ({k: v for k, v in BAD.items() if k != "name"}, "name"),
        (BAD | {"name": "x" * 101}, "name"),
        (BAD | {"data": None}, "data"),
        (BAD | {"data": {}}, "data.certificate"),
        (BAD | {"account": {"id": "1010"}}, "account.id"),
        (event("101967", 5), "data.certificate.id"),
        (event(-1, 5), "data.certificate.id"),
        (event(0, 5), "data.certificate.id"),
        (event(True, 5), "data.certificate.id"),
        (event(1.5, 5), "data.certificate.id"),
        (event(2**63, 5), "data.certificate.id"),
        (event(10**400, 5), "data.certificate.id"),
        (event(None, 5), "data.certificate.id"),
        (event(1, "5"), "data.certificate.domain_id"),
        (event(1, -5), "data.certificate.domain_id"),
    ],
)
def test_what_is_not_an_event_is_refused(anonymous: FlaskClient, services: Services, body: Any, message: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = anonymous.post(PATH, data=data, content_type="application/json")
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert message in answer.json["detail"]
    assert recorded(services) == []
    assert jobs(services) == []


def test_an_event_of_any_content_type_is_read(anonymous: FlaskClient) -> None:
    data = json.dumps(event(1, 1))
    assert anonymous.post(PATH, data=data, content_type="text/plain").status_code == 200


@pytest.mark.parametrize("secret", ["wrong", WEBHOOK_SECRET[:-1], WEBHOOK_SECRET + "x", "%00", "%ff", "é"])
def test_a_wrong_secret_finds_nothing(anonymous: FlaskClient, services: Services, secret: str) -> None:
    answer = anonymous.post(f"/dnsimple/events/{secret}", json=event(1, 1))
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert recorded(services) == []


def test_an_oversized_event_is_refused(anonymous: FlaskClient, services: Services) -> None:
    answer = anonymous.post(PATH, json=event(1, 1, padding="x" * 300_000))
    assert answer.status_code == 413
    assert recorded(services) == []


def test_the_secret_is_not_logged(anonymous: FlaskClient, capsys: pytest.CaptureFixture[str]) -> None:
    anonymous.post(PATH, json=event(1, 1))
    anonymous.post(PATH, data=b"{")
    output = capsys.readouterr().err
    assert "/dnsimple/events/<secret>" in output
    assert WEBHOOK_SECRET not in output


@pytest.mark.both_databases
def test_an_event_that_cannot_be_recorded_is_not_acknowledged(anonymous: FlaskClient, services: Services) -> None:
    with services.database.write() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO jobs_gone"))
    answer = anonymous.post(PATH, json=event(1, 1))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert recorded(services) == []
