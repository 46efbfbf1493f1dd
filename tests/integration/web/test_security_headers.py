"""What holds for every request and every answer, whoever asks and through whatever proxy."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from app import create_app
from app.auth.tokens import create_token
from app.services import WEBHOOK_PATH, Services
from app.web.proxies import client_address
from app.web.security_headers import host_name, known_hosts
from config import ConfigurationError, Settings
from tests.support import databases
from tests.support.harness import WEBHOOK_SECRET, event, make_settings

PROXY, OTHER_PROXY, CLIENT = "10.0.0.1", "2001:db8::7", "198.51.100.9"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Nothing here depends on the database, nor on DNSimple: SQLite alone, and nobody to call."""
    return make_settings(
        databases.new_sqlite_database(tmp_path),
        "http://127.0.0.1:9",
        tmp_path / "var",
        public_url="https://certs.example.com",
        allowed_hosts="internal.example, Other.example",
        trusted_proxies="10.0.0.0/8,2001:db8::/64",
    )


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    app.add_url_rule("/where", view_func=lambda: {"address": client_address(request), "url": request.base_url})
    yield app
    app.extensions["certcourier"].services.database.close()


def read_client(app: Flask) -> FlaskClient:
    services: Services = app.extensions["certcourier"].services
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {create_token(services.database, 'x', ('read', 'issue'))[1]}"
    return client


def where(app: Flask, peer: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_client().get("/where", environ_base={"REMOTE_ADDR": peer}, headers=named)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz"),
        ("GET", "/orders"),
        ("GET", "/nowhere"),
        ("GET", "/docs"),
        ("PUT", "/orders"),
        ("OPTIONS", "/orders"),
        ("POST", "/issue_certificate"),
        ("POST", f"{WEBHOOK_PATH}/wrong"),
    ],
)
def test_every_answer_has_strict_headers_and_no_cookie(app: Flask, method: str, path: str) -> None:
    headers = read_client(app).open(path, method=method).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Strict-Transport-Security"].startswith("max-age=")
    assert "camera=()" in headers["Permissions-Policy"]
    assert "Set-Cookie" not in headers
    assert "Access-Control-Allow-Origin" not in headers


def test_a_service_without_https_sends_no_hsts(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"public_url": "http://127.0.0.1:4567"}))
    assert "Strict-Transport-Security" not in app.test_client().get("/healthz").headers


def test_the_page_has_no_inline_code_and_its_style_is_a_file(app: Flask) -> None:
    client = read_client(app)
    page = client.get("/docs")
    assert "style-src 'self'" in page.headers["Content-Security-Policy"]
    for inline in ("<style", "<script", "style=", "onclick", "javascript:"):
        assert inline not in page.text
    assert 'href="/docs.css"' in page.text
    style = client.get("/docs.css")
    assert style.status_code == 200
    assert style.mimetype == "text/css"
    assert "color-scheme" in style.text


@pytest.mark.parametrize(
    "host",
    [
        "certs.example.com",
        "certs.example.com:443",
        "CERTS.example.com.",
        "localhost:4567",
        "127.0.0.1:1",
        "[::1]:4567",
        "internal.example",
        "other.example",
    ],
)
def test_a_known_host_is_answered(app: Flask, host: str) -> None:
    assert app.test_client().get("/orders", headers={"Host": host}).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "certs.example.com.evil.example",
        "x.certs.example.com",
        "",
        "a b",
        "certs.example.com@evil.example",
    ],
)
def test_an_unknown_host_is_refused_with_the_remedy(app: Flask, host: str) -> None:
    answer = app.test_client().get("/orders", headers={"Host": host})
    assert answer.status_code == 400
    assert "ALLOWED_HOSTS" in answer.json["detail"]


def test_an_unknown_host_reaches_only_the_health_check(app: Flask) -> None:
    body = event(1, 2)
    answer = app.test_client().post(f"{WEBHOOK_PATH}/{WEBHOOK_SECRET}", json=body, headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert app.test_client().get("/readyz", headers={"Host": "evil.example"}).status_code == 400
    assert app.test_client().get("/healthz", headers={"Host": "10.1.2.3"}).status_code == 200


def test_the_listening_address_is_a_known_host(settings: Settings) -> None:
    assert "192.0.2.1" in known_hosts(settings.model_copy(update={"host": "192.0.2.1"}))
    assert "[2001:db8::1]" in known_hosts(settings.model_copy(update={"host": "2001:db8::1"}))
    assert "0.0.0.0" not in known_hosts(settings.model_copy(update={"host": "0.0.0.0"}))  # noqa: S104, not bound


def test_a_host_is_compared_without_port_case_and_final_dot() -> None:
    assert [host_name(host) for host in ("A.b:1", "a.b.", "[::1]:5", "[::1]")] == ["a.b", "a.b", "[::1]", "[::1]"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (CLIENT, None, CLIENT),
        (CLIENT, "1.2.3.4", CLIENT),  # a stranger may say what he likes
        ("127.0.0.1", "1.2.3.4", "127.0.0.1"),  # so may a neighbour that is not named
        (PROXY, None, PROXY),
        (PROXY, CLIENT, CLIENT),
        (PROXY, f"1.2.3.4, {CLIENT}", CLIENT),  # what the client itself claimed comes first
        (PROXY, f"1.2.3.4,{CLIENT}, {OTHER_PROXY}", CLIENT),
        (OTHER_PROXY, f"{CLIENT}:5555", CLIENT),
        (PROXY, "[2001:db8:1::5]:443", "2001:db8:1::5"),
        (PROXY, "2001:DB8:1::5", "2001:db8:1::5"),
        (PROXY, f"::ffff:{CLIENT}", CLIENT),
        (f"::ffff:{PROXY}", CLIENT, CLIENT),
        (PROXY, "unknown", PROXY),
        (PROXY, f"{CLIENT}, unknown", PROXY),
        (PROXY, "", PROXY),
        (PROXY, "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("", CLIENT, ""),
    ],
)
def test_the_client_is_the_last_address_outside_the_trusted_proxies(
    app: Flask, peer: str, forwarded: str | None, address: str
) -> None:
    headers = {} if forwarded is None else {"X_Forwarded_For": forwarded}
    assert where(app, peer, **headers).json["address"] == address


def test_host_and_scheme_are_accepted_only_from_a_trusted_proxy(app: Flask) -> None:
    said = {"Host": "internal.example", "X_Forwarded_Host": "certs.example.com", "X_Forwarded_Proto": "https"}
    assert where(app, PROXY, **said).json["url"] == "https://certs.example.com/where"
    assert where(app, CLIENT, **said).json["url"] == "http://internal.example/where"
    assert where(app, PROXY, **said | {"X_Forwarded_Host": "evil.example"}).status_code == 400
    assert where(app, PROXY, **said | {"X_Forwarded_Host": "evil.example, certs.example.com"}).status_code == 200
    assert where(app, PROXY, **said | {"X_Forwarded_Proto": "gopher"}).json["url"].startswith("http:")


def test_a_request_id_is_accepted_only_from_a_trusted_proxy(app: Flask) -> None:
    assert where(app, PROXY, X_Request_Id="abc-123").headers["X-Request-Id"] == "abc-123"
    assert where(app, CLIENT, X_Request_Id="abc-123").headers["X-Request-Id"] != "abc-123"
    for insane in ("a b", "x" * 65, "a\tb", "é"):
        assert where(app, PROXY, X_Request_Id=insane).headers["X-Request-Id"] != insane


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "path",
    [
        "//orders",
        "/orders/",
        "/orders/%00",
        "/orders/a%0ab",
        "/orders/..%2f..%2fetc",
        "/orders/../certificates",
        "/%2e%2e/orders",
        "/certificates/-1",
        "/certificates/1e3",
        "/certificates/99999999999999999999999",
        "/orders/%ff",
        "/orders/%ed%a0%80",
        "/orders?cursor=AA==",
        "/certificates?cursor=AA==",
        "/orders?cursor=J09SIDE=",
    ],
)
def test_an_invalid_path_or_cursor_is_not_found(database_url: str, tmp_path: Path, path: str) -> None:
    app = create_app(make_settings(database_url, "http://127.0.0.1:9", tmp_path / "var"))
    answer = read_client(app).get(path)
    app.extensions["certcourier"].services.database.close()
    assert answer.status_code in {400, 404}, answer.text
    assert answer.mimetype == "application/problem+json"


def test_an_error_reveals_no_internals(extensible_app: Flask) -> None:
    extensible_app.config["PROPAGATE_EXCEPTIONS"] = False
    extensible_app.add_url_rule("/fails", "fails", lambda: {}["secret detail"])
    answer = extensible_app.test_client().get("/fails")
    assert answer.status_code == 500
    for inside in ("secret detail", "KeyError", "Traceback", "werkzeug", ".py"):
        assert inside not in answer.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trusted_proxies", "everybody"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("allowed_hosts", "https://certs.example.com"),
        ("allowed_hosts", "certs.example.com:443"),
        ("allowed_hosts", "*"),
        ("request_read_timeout_seconds", 0),
        ("token_requests_per_minute", 0),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name.upper()):
        make_settings("sqlite://", "http://127.0.0.1:9", tmp_path, **{name: value})


def test_networks_are_parsed_from_a_list(settings: Settings) -> None:
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/64"))
    assert settings.allowed_hosts == ("internal.example", "other.example")
