"""The webhook destination against a real receiver that verifies by the published library of Standard Webhooks."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey
from pydantic import ValidationError
from standardwebhooks import Webhook

from app.destinations.base import (
    DestinationGoneError,
    DestinationRefusedError,
    DestinationUnavailableError,
)
from app.destinations.webhook import http_client
from app.destinations.webhook.destination import WebhookConfig, WebhookDestination
from app.destinations.webhook.http_client import is_public
from app.destinations.webhook.message import JWE_ALGORITHMS
from tests.support.bundles import AUTHORITY, issued_bundle
from tests.support.pushing import Push, pusher
from tests.support.webhook_receiver import SECRET, Inbox, Receiver, receiver, write_secret

OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 124))).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webhook")


@pytest.fixture(scope="module")
def ca_bundle(folder: Path) -> Path:
    file = folder / "ca.pem"
    file.write_text(AUTHORITY.root.public_bytes(Encoding.PEM).decode())
    return file


@pytest.fixture(scope="module")
def receiver_process(folder: Path, ca_bundle: Path) -> Iterator[Receiver]:
    issued = AUTHORITY.issue("localhost", "hooks.example.com")
    (folder / "server.pem").write_text(issued.leaf + "".join(issued.chain))
    (folder / "server.key").write_text(issued.key)
    with receiver(SECRET, folder / "server.pem", folder / "server.key", verify=str(ca_bundle)) as process:
        yield process


@pytest.fixture
def far(receiver_process: Receiver) -> Inbox:
    return Inbox(receiver_process)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return write_secret(tmp_path / "secret", SECRET)


@pytest.fixture
def config(far: Inbox, secret_file: Path, ca_bundle: Path) -> dict[str, Any]:
    """What the destinations file says."""
    url = f"https://localhost:{far.process.port}/certificates?tenant=7"
    return {
        "name": "hook", "url": url, "secret_file": secret_file, "ca_bundle": ca_bundle, "allow_private": True,
    }  # fmt: skip


def hook(config: dict[str, Any], **more: Any) -> WebhookDestination:
    return WebhookDestination(WebhookConfig.model_validate(config | more))


def test_a_first_delivery_is_signed_and_says_what_is_there(config: dict[str, Any], far: Inbox) -> None:
    given = issued_bundle(1)
    result = hook(config).deliver(given)
    (heard,) = far.messages()
    leaf = x509.load_pem_x509_certificate(given.leaf_pem.encode())
    assert heard["path"] == "/certificates?tenant=7"
    assert heard["headers"]["content-type"] == "application/json"
    assert heard["headers"]["host"] == f"localhost:{far.process.port}"
    message = heard["message"]
    assert message["type"] == "certificate.delivered"
    assert abs(datetime.fromisoformat(message["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert message["data"] == {
        "certificate_id": 1001,
        "lineage": "www.example.com",
        "version": f"{given.version.not_before:%Y%m%dT%H%M%SZ}-0000000000000001001",
        "common_name": "www.example.com",
        "names": ["www.example.com", "example.com"],
        "fingerprint": given.fingerprint,
        "serial": f"{leaf.serial_number:x}",
        "not_before": f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "certificate": given.leaf_pem,
        "chain": given.chain_pem,
    }
    assert result.outcome == "delivered"
    assert heard["headers"]["webhook-id"] in result.detail


def test_the_private_key_is_not_sent(config: dict[str, Any], far: Inbox) -> None:
    hook(config).deliver(issued_bundle(1))
    (heard,) = far.messages()
    assert "PRIVATE" not in heard["body"]
    assert "private" not in heard["body"]


def test_a_renewal_has_an_id_of_its_own_and_a_greater_version(config: dict[str, Any], far: Inbox) -> None:
    destination = hook(config)
    for number in (1, 2):
        destination.deliver(issued_bundle(number))
    first, second = far.messages()
    assert first["headers"]["webhook-id"] != second["headers"]["webhook-id"]
    assert first["message"]["data"]["version"] < second["message"]["data"]["version"]


def test_a_retry_has_the_same_id_and_a_signature_of_its_own_time(config: dict[str, Any], far: Inbox) -> None:
    given, now = issued_bundle(1), datetime.now(UTC)
    settings = WebhookConfig.model_validate(config)
    far.process.will_answer({"status": 500})
    with pytest.raises(DestinationUnavailableError, match="answered 500 to message msg_") as failed:
        WebhookDestination(settings, clock=lambda: now - timedelta(minutes=2)).deliver(given)
    assert failed.value.retry_after is None
    assert WebhookDestination(settings, clock=lambda: now).deliver(given).outcome == "delivered"
    first, second = far.messages()
    assert first["headers"]["webhook-id"] == second["headers"]["webhook-id"]
    times = [int(heard["headers"]["webhook-timestamp"]) for heard in (first, second)]
    assert times == [int(now.timestamp()) - 120, int(now.timestamp())]
    assert "message" in first
    assert "message" in second


def test_another_destination_has_other_ids(config: dict[str, Any], far: Inbox) -> None:
    given = issued_bundle(1)
    for name in ("one", "two"):
        hook(config, name=name).deliver(given)
    assert len({heard["headers"]["webhook-id"] for heard in far.messages()}) == 2


def test_a_wrong_secret_is_refused_by_the_receiver_and_retried(config: dict[str, Any], far: Inbox) -> None:
    write_secret(config["secret_file"], OTHER_SECRET)
    with pytest.raises(DestinationUnavailableError, match="answered 401"):
        hook(config).deliver(issued_bundle(1))
    assert "message" not in far.messages()[0]


@pytest.mark.parametrize("order", [(SECRET, OTHER_SECRET), (OTHER_SECRET, SECRET)], ids=["new first", "old first"])
def test_while_secrets_are_rotated_receivers_of_either_are_content(
    config: dict[str, Any], far: Inbox, order: tuple[str, str]
) -> None:
    write_secret(config["secret_file"], "# since November\n" + "\n\n".join(order))
    hook(config).deliver(issued_bundle(1))
    (heard,) = far.messages()
    assert len(heard["headers"]["webhook-signature"].split()) == 2
    assert Webhook(OTHER_SECRET).verify(heard["body"], heard["headers"]) == heard["message"]


def test_an_older_certificate_is_not_sent_after_a_newer_one_was_acknowledged(
    config: dict[str, Any], far: Inbox
) -> None:
    destination, newer = hook(config), issued_bundle(2)
    destination.deliver(newer)
    assert destination.deliver(issued_bundle(1)).outcome == "superseded"
    assert len(far.messages()) == 1


@pytest.mark.parametrize("key", [OKPKey.generate_key("X25519"), ECKey.generate_key("P-256")], ids=["X25519", "P-256"])
def test_a_sealed_key_is_opened_by_its_receiver_alone(
    config: dict[str, Any], far: Inbox, tmp_path: Path, key: OKPKey | ECKey
) -> None:
    given, file = issued_bundle(1), tmp_path / "receiver.jwk"
    file.write_text(json.dumps(key.as_dict(private=False)))
    hook(config, encrypt_key_to=file).deliver(given)
    (heard,) = far.messages()
    encrypted = heard["message"]["data"]["private_key_jwe"]
    opened = jwe.decrypt_compact(encrypted, key, algorithms=JWE_ALGORITHMS)
    assert opened.plaintext == given.key.reveal().encode()
    assert opened.headers()["kid"] == key.thumbprint()
    assert given.key.reveal().splitlines()[1] not in heard["body"]
    stranger = OKPKey.generate_key("X25519") if key.key_type == "OKP" else ECKey.generate_key("P-256")
    with pytest.raises(Exception, match=r"."):  # each library's own error
        jwe.decrypt_compact(encrypted, stranger, algorithms=JWE_ALGORITHMS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kty": "oct", "k": "c2VjcmV0"}',
        '{"kty": "EC", "crv": "P-256"}',
        json.dumps(OKPKey.generate_key("X25519").as_dict(private=True)),
        json.dumps(OKPKey.generate_key("Ed25519").as_dict(private=False)),
    ],
    ids=["empty", "list", "symmetric", "incomplete", "private", "for signing"],
)
def test_a_key_that_cannot_be_sealed_to_is_refused(config: dict[str, Any], tmp_path: Path, text: str) -> None:
    file = tmp_path / "receiver.jwk"
    file.write_text(text)
    with pytest.raises(DestinationRefusedError, match=r"hook: encrypt_key_to: .* must be a public JWK"):
        hook(config, encrypt_key_to=file).check()
    with pytest.raises(DestinationRefusedError, match=r"encrypt_key_to: .*No such file"):
        hook(config, encrypt_key_to=tmp_path / "missing").check()


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("120", 120, 120),
        ("0", 30, 30),
        ("9" * 30, 21600, 21600),
        (timedelta(hours=1), 3300, 3600),
        (timedelta(hours=-1), 30, 30),
    ],
)
def test_a_receiver_says_when_to_come_again_in_either_form_within_bounds(
    config: dict[str, Any], far: Inbox, retry_after: str | timedelta, least: float, most: float
) -> None:
    if isinstance(retry_after, timedelta):
        retry_after = format_datetime(datetime.now(UTC) + retry_after, usegmt=True)
    far.process.will_answer({"status": 503, "headers": {"Retry-After": retry_after}})
    with pytest.raises(DestinationUnavailableError, match="answered 503") as failed:
        hook(config).deliver(issued_bundle(1))
    assert failed.value.retry_after is not None
    assert least <= failed.value.retry_after <= most


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(config: dict[str, Any], far: Inbox, status: int) -> None:
    far.process.will_answer({"status": status, "headers": {"Location": f"{far.process.url}/elsewhere"}})
    with pytest.raises(DestinationUnavailableError, match=f"answered {status}.*redirects are not followed"):
        hook(config).deliver(issued_bundle(1))
    assert [heard["path"] for heard in far.messages()] == ["/certificates?tenant=7"]


def test_gone_means_nothing_more_is_wanted(config: dict[str, Any], far: Inbox) -> None:
    far.process.will_answer({"status": 410})
    with pytest.raises(DestinationGoneError, match="certcourier destinations resume hook"):
        hook(config).deliver(issued_bundle(1))


@pytest.mark.parametrize("answer", [{"hang": True}, {"drip": True}], ids=["silent", "a byte now and then"])
def test_a_receiver_that_does_not_come_to_an_end_is_given_up(
    config: dict[str, Any], far: Inbox, answer: dict[str, Any]
) -> None:
    far.process.will_answer(answer)
    with pytest.raises(DestinationUnavailableError, match="no complete response in time"):
        hook(config, timeout_seconds=1).deliver(issued_bundle(1))


def test_a_long_answer_is_not_read_to_its_end(config: dict[str, Any], far: Inbox) -> None:
    far.process.will_answer({"status": 200, "body": "x" * 50_000_000})
    before = psutil.Process().memory_info().rss
    assert hook(config).deliver(issued_bundle(1)).outcome == "delivered"
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_a_receiver_whose_certificate_is_not_trusted_gets_nothing(config: dict[str, Any], far: Inbox) -> None:
    with pytest.raises(DestinationUnavailableError, match=r"TLS certificate is not trusted.*ca_bundle"):
        hook(config, ca_bundle=None).deliver(issued_bundle(1))
    assert far.messages() == []


def test_nobody_listening_is_tried_again(config: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DestinationUnavailableError, match="refused"):
        hook(config, url=f"https://localhost:{port}/").deliver(issued_bundle(1))


def test_a_name_that_resolves_to_nothing_is_tried_again(config: dict[str, Any]) -> None:
    for url in ("https://nobody.invalid/", "https://a..b/"):
        with pytest.raises(DestinationUnavailableError):
            hook(config, url=url).deliver(issued_bundle(1))


def test_proxies_of_the_environment_are_ignored(
    config: dict[str, Any], far: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    hook(config).deliver(issued_bundle(1))
    assert len(far.messages()) == 1


def test_a_private_address_is_refused_unless_allowed(config: dict[str, Any], far: Inbox) -> None:
    with pytest.raises(DestinationRefusedError, match="allow_private = true"):
        hook(config, allow_private=False).deliver(issued_bundle(1))
    assert far.messages() == []


def test_a_name_is_resolved_once_and_connected_to_what_was_checked(
    config: dict[str, Any], far: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS that has another answer, an inner address, for every further question: there is none."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:  # noqa: ARG001
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    monkeypatch.setattr(http_client, "is_public", lambda address: address == "127.0.0.1")
    url = f"https://hooks.example.com:{far.process.port}/"
    settings = WebhookConfig.model_validate(config | {"allow_private": False, "url": url})
    WebhookDestination(settings, resolver=rebinding).deliver(issued_bundle(1))
    assert asked == ["hooks.example.com"]
    assert len(far.messages()) == 1


def test_of_several_addresses_the_private_ones_are_left_out(config: dict[str, Any], far: Inbox) -> None:
    settings = WebhookConfig.model_validate(config | {"allow_private": False})
    with pytest.raises(DestinationRefusedError, match=r"127\.0\.0\.1, 10\.0\.0\.1"):
        WebhookDestination(settings, resolver=lambda *_: ["127.0.0.1", "10.0.0.1"]).deliver(issued_bundle(1))
    assert far.messages() == []


def test_tls_verifies_the_name_and_not_the_address(config: dict[str, Any], far: Inbox) -> None:
    def here(host: str, port: int) -> list[str]:  # noqa: ARG001
        return ["127.0.0.1"]

    for name, fits in (("hooks.example.com", True), ("other.example.com", False)):
        settings = WebhookConfig.model_validate(config | {"url": f"https://{name}:{far.process.port}/"})
        destination = WebhookDestination(settings, resolver=here)
        if fits:
            destination.deliver(issued_bundle(1))
        else:
            with pytest.raises(DestinationUnavailableError, match=r"not trusted.*other.example.com"):
                destination.deliver(issued_bundle(1))
    assert [heard["headers"]["host"] for heard in far.messages()] == [f"hooks.example.com:{far.process.port}"]


def test_an_address_that_does_not_answer_is_followed_by_the_next(config: dict[str, Any], far: Inbox) -> None:
    settings = WebhookConfig.model_validate(config)
    WebhookDestination(settings, resolver=lambda *_: ["127.0.0.2", "127.0.0.1"]).deliver(issued_bundle(1))
    assert len(far.messages()) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1",
        "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "::7f00:1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_!!!!", "c2VjcmV0", "whsec_" + base64.b64encode(b"x" * 23).decode(),
     "whsec_" + base64.b64encode(b"x" * 65).decode(), base64.b64encode(b"x" * 32).decode(),
     f"{SECRET}\nwhsec_c2hvcnQ="],
)  # fmt: skip
def test_a_secret_that_is_none_is_refused_and_not_shown(config: dict[str, Any], secret: str) -> None:
    write_secret(config["secret_file"], secret)
    with pytest.raises(
        DestinationRefusedError, match=r"hook: secret_file: .* (must have one secret per line|is empty)"
    ) as refused:
        hook(config).check()
    assert all(len(word) < 8 or word not in str(refused.value) for word in secret.split())


def test_a_secret_that_others_can_read_is_refused(config: dict[str, Any]) -> None:
    config["secret_file"].chmod(0o640)
    with pytest.raises(DestinationRefusedError, match="chmod 600"):
        hook(config).check()


def test_a_good_configuration_passes_and_sends_nothing(config: dict[str, Any], far: Inbox) -> None:
    hook(config).check()
    assert far.messages() == []


def test_a_bundle_of_authorities_that_is_none_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    for file in ("ca.pem", "missing.pem"):
        with pytest.raises(DestinationRefusedError, match=r"ca_bundle: .* must be a PEM file"):
            hook(config, ca_bundle=tmp_path / file).check()


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x.example/", "https:///path", "https://user:secret@x.example/", "https://x.example/#a",
     "https://x.example/a b", "https://x.example:99999/", "https://bücher.example/", "https://x.example/\r\nHost: y"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused(config: dict[str, Any], url: str) -> None:
    with pytest.raises(ValidationError):
        hook(config, url=url)


def test_http_is_for_private_receivers_and_never_carries_a_key(config: dict[str, Any], tmp_path: Path) -> None:
    hook(config, url="http://localhost/")
    for more in ({"allow_private": False}, {"encrypt_key_to": tmp_path / "receiver.jwk"}):
        with pytest.raises(ValidationError, match="must start with https"):
            hook(config, url="http://localhost/", **more)


def test_the_path_of_the_url_is_in_no_message(config: dict[str, Any], far: Inbox) -> None:
    far.process.will_answer({"status": 500}, {"status": 204})
    url = f"{far.process.url}/capability-1234"
    destination = hook(config, url=url)
    with pytest.raises(DestinationUnavailableError) as failed:
        destination.deliver(issued_bundle(1))
    told = str(failed.value) + destination.deliver(issued_bundle(1)).detail + repr(destination.config)
    assert "capability" not in told


def test_a_message_whose_sender_was_killed_is_sent_again_under_its_id(config: dict[str, Any], far: Inbox) -> None:
    given, destination = issued_bundle(1), "app.destinations.webhook.destination:WebhookDestination"
    points = (
        "socket:create_connection",
        "ssl:SSLSocket.do_handshake",
        "http.client:HTTPConnection.request",
        "http.client:HTTPConnection.getresponse",
        "http.client:HTTPResponse.read",
    )
    with pusher() as process:
        kill_at = 1
        while process.killed(Push(destination, config, given, points, kill_at)):
            kill_at += 1
    assert kill_at == len(points) + 1
    assert hook(config).deliver(given).outcome == "delivered"
    heard = far.messages()
    assert len(heard) >= 3  # from the kill while the answer was waited for, the one after it, and two that were whole
    assert len({message["headers"]["webhook-id"] for message in heard}) == 1
    assert all(message["message"]["data"] == heard[0]["message"]["data"] for message in heard)
