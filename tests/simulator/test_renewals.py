"""The simulator's renewals: failures, their events, lifetimes, and renewal information."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from cryptography import x509

from tests.support.simulator_process import Simulator

DAY = 86_400


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(domain=["a.example"], issue_delay=0.0, allow_http_webhooks=True) as simulator:
        yield simulator


def issued(simulator: Simulator, **more: Any) -> int:
    number = simulator.purchase("a.example", **more)
    simulator.issue("a.example", number)
    simulator.wait_until_issued("a.example", number)
    return number


def leaf(simulator: Simulator, number: int) -> x509.Certificate:
    pem = simulator.api("GET", f"/domains/a.example/certificates/{number}/download")["server"]
    return x509.load_pem_x509_certificate(pem.encode())


def advance(simulator: Simulator, days: float) -> None:
    simulator.control("POST", "/clock", {"advance_seconds": days * DAY})
    simulator.wait_until_idle()


def states(simulator: Simulator) -> list[str]:
    return [certificate["state"] for certificate in simulator.certificates("a.example")]


def test_a_failed_auto_renewal_is_retried_a_day_later(simulator: Simulator) -> None:
    issued(simulator, auto_renew=True)
    simulator.outcome("a.example", "failed")
    advance(simulator, 60)
    assert states(simulator) == ["failed", "issued"]
    advance(simulator, 0.5)
    assert states(simulator) == ["failed", "issued"]
    simulator.outcome("a.example", "issued")
    advance(simulator, 0.6)
    assert states(simulator) == ["issued", "failed", "issued"]


def test_a_lifetime_can_be_set_for_a_domain_and_is_renewed_at_its_half(simulator: Simulator) -> None:
    simulator.control("POST", "/lifetimes", {"domain": "a.example", "days": 6})
    certificate = leaf(simulator, issued(simulator, auto_renew=True))
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=6)
    advance(simulator, 2.9)
    assert states(simulator) == ["issued"]
    advance(simulator, 0.2)
    assert states(simulator) == ["issued", "issued"]


def test_a_certificate_is_not_renewed_once_auto_renewal_is_off(simulator: Simulator) -> None:
    number = issued(simulator, auto_renew=True)
    simulator.control("POST", f"/auto_renew/{number}", {"enabled": False})
    advance(simulator, 61)
    assert states(simulator) == ["issued"]


def test_a_reissue_keeps_the_number_and_changes_the_certificate(simulator: Simulator) -> None:
    number = issued(simulator)
    first = leaf(simulator, number)
    simulator.control("POST", f"/reissue/{number}", {})
    assert leaf(simulator, number).serial_number != first.serial_number
    assert states(simulator) == ["issued"]


def ask(simulator: Simulator, certificate: x509.Certificate) -> requests.Response:
    key = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    serial = certificate.serial_number
    assert key is not None
    parts = (key, serial.to_bytes(serial.bit_length() // 8 + 1))
    name = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    return requests.get(f"{simulator.url}/renewal-info/{name}", timeout=10)


def window(answer: requests.Response) -> list[datetime]:
    return [datetime.fromisoformat(answer.json()["suggestedWindow"][name]) for name in ("start", "end")]


def test_the_suggested_window_is_a_third_of_the_lifetime_before_expiry(simulator: Simulator) -> None:
    certificate = leaf(simulator, issued(simulator))
    answer = ask(simulator, certificate)
    start, end = window(answer)
    assert start < certificate.not_valid_after_utc - timedelta(days=30) < end
    assert answer.headers["Retry-After"] == "21600"


def test_an_incident_can_be_scripted_for_one_certificate_or_for_all(simulator: Simulator) -> None:
    one, other = issued(simulator), issued(simulator, name="b")
    script = {"start_in": -60, "end_in": 60, "certificate_id": one, "explanation_url": "https://ca.example/why"}
    simulator.control("POST", "/windows", script)
    answer = ask(simulator, leaf(simulator, one))
    start, end = window(answer)
    assert start < datetime.now(UTC) < end
    assert answer.json()["explanationURL"] == "https://ca.example/why"
    assert window(ask(simulator, leaf(simulator, other)))[0] > end
    simulator.control("POST", "/windows", {"start_in": -60, "end_in": 60})
    assert window(ask(simulator, leaf(simulator, other)))[0] < datetime.now(UTC)
    simulator.control("DELETE", "/windows")
    assert window(ask(simulator, leaf(simulator, one)))[0] > end


@pytest.mark.parametrize("name", ["AAAA.AAAA", "no-dot", "!.!", "."])
def test_an_unknown_certificate_has_no_renewal_information(simulator: Simulator, name: str) -> None:
    assert requests.get(f"{simulator.url}/renewal-info/{name}", timeout=10).status_code == 404
