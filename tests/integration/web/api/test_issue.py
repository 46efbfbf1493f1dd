"""What cannot be an order: a clear 4xx that names the field, nothing on record, nothing sent to DNSimple."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from app.db.models import Job, Order
from app.services import Services
from tests.support.simulator_process import Simulator

JSON = "application/json"


@pytest.fixture(autouse=True)
def _nothing_happens(services: Services, simulator: Simulator) -> Any:
    yield
    assert simulator.calls() == []
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Order)) == 0
        assert session.scalar(select(func.count()).select_from(Job)) == 0


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "domain", "required"),
        ({"domain": 5}, "domain", "string"),
        ({"domain": ""}, "domain", "host name"),
        ({"domain": "com"}, "domain", "top-level"),
        ({"domain": "../../999/secret?"}, "domain", "host name"),
        ({"domain": "x" * 5000}, "domain", "1000"),
        ({"domain": "example.com", "name": ["www"]}, "name", "string"),
        ({"domain": "example.com", "name": "a b"}, "name", "host name"),
        ({"domain": "example.com", "name": "www.other.com"}, "name", "outside example.com"),
        ({"domain": "example.com", "san": "docs.other.com"}, "san", "outside example.com"),
        ({"domain": "example.com", "san": [5]}, "san.0", "string"),
        ({"domain": "example.com", "san": {"a": "b"}}, "san", "list"),
        ({"domain": "example.com", "san": [f"n{i}" for i in range(99)]}, "san", "at most 100"),
        ({"domain": "example.com", "auto_renew": "maybe"}, "auto_renew", "boolean"),
        ({"domain": "example.com", "signature_algorithm": "DSA"}, "signature_algorithm", "ECDSA"),
        ({"domain": "example.com", "contact_id": 5}, "contact_id", "not a field"),
        ({"domain": "example.com", "san": [], "alternate_names": []}, "alternate_names", "two names"),
    ],
)
def test_an_invalid_field_is_named(client: FlaskClient, body: dict[str, Any], field: str, message: str) -> None:
    answer = client.post("/issue_certificate", json=body)
    assert answer.status_code == 400
    assert answer.content_type == "application/problem+json"
    (error,) = answer.json["errors"]
    assert error["field"] == field
    assert message in error["message"]
    assert answer.json["error"]["message"] == answer.json["detail"]


def test_all_invalid_fields_are_named_at_once(client: FlaskClient) -> None:
    answer = client.post("/issue_certificate", json={"auto_renew": "maybe", "x": 1})
    assert {error["field"] for error in answer.json["errors"]} == {"domain", "auto_renew", "x"}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"{", JSON, 400, "not valid JSON: Expecting property name enclosed in double quotes, line 1, column 2"),
        (b'{\n"domain": }', JSON, 400, "Expecting value, line 2, column 11"),
        (b"", JSON, 400, ""),
        (b"[1]", JSON, 400, "JSON object"),
        (b'"text"', JSON, 400, "JSON object"),
        (b"\xff\xfe\x00", JSON, 400, "not valid JSON"),
        (b'{"domain": "\xff.com"}', JSON, 400, ""),
        (b"[" * 100_000, JSON, 400, ""),
        (b'{"domain": "b.example"}', "application/x-www-form-urlencoded", 415, "set Content-Type: application/json"),
        (b"domain=example.com", "text/plain", 415, "application/json"),
        (b"<domain/>", "application/xml", 415, "application/json"),
        (b"domain=a.example&domain=b.example", "application/x-www-form-urlencoded", 400, "more than once"),
        (b"name=www", "application/x-www-form-urlencoded", 400, "domain"),
        (b"{" + b" " * 300_000 + b"}", JSON, 413, ""),
    ],
)
def test_an_invalid_body_is_refused(
    client: FlaskClient, body: bytes, content_type: str, status: int, message: str
) -> None:
    answer = client.post("/issue_certificate", data=body, content_type=content_type)
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert message in answer.json["detail"]


def test_a_file_is_not_a_field(client: FlaskClient) -> None:
    data = {"domain": (BytesIO(b"example.com"), "domain.txt")}
    answer = client.post("/issue_certificate", data=data, content_type="multipart/form-data")
    assert answer.status_code == 400
    assert answer.json["errors"] == [{"field": "domain", "message": "must be a text field, not a file"}]


@pytest.mark.parametrize("key", ["", '""', "a b", "é", "x" * 256])
def test_an_invalid_idempotency_key_is_refused(client: FlaskClient, key: str) -> None:
    answer = client.post("/issue_certificate", json={"domain": "example.com"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert answer.json["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer \xe9\xe9", "Digest x=1", "certcourier_x"]
)
@pytest.mark.parametrize("path", ["/issue_certificate", "/dnsimple/issue_certificate"])
def test_without_a_valid_token_nothing_is_ordered(anonymous: FlaskClient, path: str, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    answer = anonymous.post(path, json={"domain": "example.com"}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_another_method_is_refused(client: FlaskClient) -> None:
    answer = client.get("/issue_certificate")
    assert (answer.status_code, answer.content_type) == (405, "application/problem+json")
    assert "POST" in answer.headers["Allow"]
