"""The simulator's API: DNSimple's paths, fields, statuses and words."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from dnsimple import Client

from tests.support.simulator_api import AUTHORIZATION, ORDER, call, issued, leaf, order
from tests.support.simulator_process import ROOT, Simulator


def names(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


def test_a_certificates_lifecycle(simulator: Simulator) -> None:
    bought = order(simulator)
    assert bought.status_code == 201
    purchase = bought.json()["data"]
    assert set(purchase) == {"id", "certificate_id", "state", "auto_renew", "created_at", "updated_at"}
    assert (purchase["state"], purchase["id"]) == ("new", purchase["certificate_id"])
    number = purchase["certificate_id"]
    path = f"/domains/example.com/certificates/{number}"
    early = call(simulator, "GET", f"{path}/download")
    assert (early.status_code, early.json()) == (428, {"message": "Certificate not issued"})
    early = call(simulator, "GET", f"{path}/private_key")
    assert (early.status_code, early.json()) == (428, {"message": "Private key not present"})
    requested = call(
        simulator, "POST", f"{ORDER}/{number}/issue", headers=AUTHORIZATION | {"Content-Type": "application/json"}
    )
    assert requested.status_code == 202
    assert {requested.json()["data"][field] for field in ("csr", "expires_at", "expires_on")} == {None}
    assert requested.json()["data"]["state"] == "requesting"
    simulator.wait_until_issued("example.com", number)
    certificate = call(simulator, "GET", path).json()["data"]
    assert certificate["csr"].startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert certificate["expires_at"].startswith(certificate["expires_on"])
    download = call(simulator, "GET", f"{path}/download").json()["data"]
    assert download["server"].endswith("-----END CERTIFICATE-----\n")
    assert download["root"] is None
    assert [pem.endswith("-----END CERTIFICATE-----") for pem in download["chain"]] == [True]
    key = call(simulator, "GET", f"{path}/private_key").json()["data"]["private_key"]
    assert key.startswith("-----BEGIN EC PRIVATE KEY-----")
    again = call(simulator, "POST", f"{ORDER}/{number}/issue", json={})
    assert again.status_code == 400


def test_the_certificate_is_real(simulator: Simulator) -> None:
    number = issued(simulator, name="www", alternate_names=["docs.example.com"])
    certificate = leaf(simulator, number)
    assert names(certificate) == {"www.example.com", "example.com", "docs.example.com"}
    (chain,) = simulator.api("GET", f"/domains/example.com/certificates/{number}/download")["chain"]
    intermediate = x509.load_pem_x509_certificate(chain.encode())
    root = x509.load_pem_x509_certificate(simulator.root_pem().encode())
    certificate.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    key = simulator.api("GET", f"/domains/example.com/certificates/{number}/private_key")["private_key"]
    assert load_pem_private_key(key.encode(), None).public_key() == certificate.public_key()
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=90)
    assert timedelta(minutes=55) < datetime.now(UTC) - certificate.not_valid_before_utc < timedelta(minutes=65)
    shown = simulator.certificates("example.com")[0]
    assert datetime.fromisoformat(shown["expires_at"]) == certificate.not_valid_after_utc


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("", {"example.com"}),
        ("api", {"api.example.com"}),
        ("a.b", {"a.b.example.com"}),
        ("*", {"*.example.com"}),
    ],
)
def test_a_name_covers_what_dnsimple_documents(simulator: Simulator, name: str, covered: set[str]) -> None:
    assert names(leaf(simulator, issued(simulator, name=name))) == covered


def test_rsa_on_request(simulator: Simulator) -> None:
    number = issued(simulator, signature_algorithm="RSA")
    assert isinstance(leaf(simulator, number).public_key(), rsa.RSAPublicKey)
    key = simulator.api("GET", f"/domains/example.com/certificates/{number}/private_key")["private_key"]
    assert key.startswith("-----BEGIN RSA PRIVATE KEY-----")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": 5}, "name"),
        ({"name": "a b"}, "name"),
        ({"alternate_names": "docs.example.com"}, "alternate_names"),
        ({"alternate_names": ["docs"]}, "alternate_names"),
        ({"alternate_names": ["docs.other.example"]}, "alternate_names"),
        ({"alternate_names": [f"n{i}.example.com" for i in range(100)]}, "alternate_names"),
        ({"auto_renew": "yes"}, "auto_renew"),
        ({"signature_algorithm": "DSA"}, "signature_algorithm"),
    ],
)
def test_a_wrong_order_names_its_field(simulator: Simulator, body: dict[str, Any], field: str) -> None:
    answer = order(simulator, **body)
    assert (answer.status_code, answer.json()["message"]) == (400, "Validation failed")
    assert list(answer.json()["errors"]) == [field]


@pytest.mark.parametrize("simulator", [{"plan": "solo"}], indirect=True)
@pytest.mark.parametrize(
    ("body", "feature"),
    [({"name": "api"}, "custom-name"), ({"alternate_names": ["a.example.com"]}, "SAN"), ({"name": "*"}, "wildcard")],
)
def test_a_small_plan_lacks_features(simulator: Simulator, body: dict[str, Any], feature: str) -> None:
    answer = order(simulator, **body)
    assert answer.status_code == 412
    assert f"requires the {feature} feature" in answer.json()["message"]
    assert order(simulator).status_code == 201


@pytest.mark.parametrize("simulator", [{"plan": "none"}], indirect=True)
def test_without_a_plan_there_is_no_lets_encrypt(simulator: Simulator) -> None:
    assert order(simulator).json()["message"].startswith("Let's Encrypt feature is not enabled")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/domains/nowhere.example", 404, "Domain `nowhere.example` not found"),
        ("GET", "/domains/0", 404, "Domain `0` not found"),
        ("GET", "/domains/example.com/certificates/0", 404, "Certificate `0` not found"),
        ("GET", "/domains/example.com/certificates/x/download", 404, "Certificate `x` not found"),
        ("GET", "/webhooks/0", 404, "Webhook `0` not found"),
        ("GET", "/nothing", 404, "Not Found"),
    ],
)
def test_a_missing_resource_is_reported_as_dnsimple_reports_it(
    simulator: Simulator, method: str, path: str, status: int, message: str
) -> None:
    answer = call(simulator, method, path)
    assert (answer.status_code, answer.json()) == (status, {"message": message})


def test_a_certificate_is_found_below_its_own_domain_only(simulator: Simulator) -> None:
    number = issued(simulator)
    assert call(simulator, "GET", f"/domains/other.example/certificates/{number}/download").status_code == 404
    by_number = simulator.domain_id("example.com")
    assert call(simulator, "GET", f"/domains/{by_number}/certificates/{number}/download").status_code == 200


def test_a_wrong_token_or_account_is_refused(simulator: Simulator) -> None:
    answer = call(simulator, "GET", "/domains", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.json()) == (401, {"message": "Authentication failed"})
    other = requests.get(f"{simulator.url}/v2/2020/domains", headers=AUTHORIZATION, timeout=10)
    assert other.status_code == 404


def test_a_wrong_method_has_an_empty_answer(simulator: Simulator) -> None:
    answer = call(simulator, "PUT", "/domains")
    assert (answer.status_code, answer.content, answer.headers.get("Content-Type")) == (405, b"", None)
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_only_json_is_read(simulator: Simulator, content_type: str) -> None:
    headers = AUTHORIZATION | {"Content-Type": content_type}
    assert call(simulator, "POST", ORDER, data="name=www", headers=headers).status_code == 400


def test_lists_have_pages(simulator: Simulator) -> None:
    for number in range(5):
        simulator.purchase("example.com", name=f"n{number}")
    path = "/domains/example.com/certificates"
    first = call(simulator, "GET", path, params={"per_page": 2}).json()
    assert first["pagination"] == {"current_page": 1, "per_page": 2, "total_entries": 5, "total_pages": 3}
    assert [item["name"] for item in first["data"]] == ["n4", "n3"]
    last = call(simulator, "GET", path, params={"per_page": 2, "page": 3, "sort": "id:asc"}).json()
    assert [item["name"] for item in last["data"]] == ["n4"]
    assert call(simulator, "GET", path, params={"per_page": 500}).json()["pagination"]["per_page"] == 100
    assert call(simulator, "GET", path, params={"page": 9}).json()["data"] == []
    assert call(simulator, "GET", path, params={"sort": "colour"}).status_code == 400
    assert "pagination" not in call(simulator, "GET", "/webhooks").json()


def test_a_renewal_by_hand_is_a_new_certificate(simulator: Simulator) -> None:
    old = issued(simulator, name="api")
    ordered = call(simulator, "POST", f"{ORDER}/{old}/renewals", json={})
    assert ordered.status_code == 201
    renewal = ordered.json()["data"]
    assert (renewal["old_certificate_id"], renewal["new_certificate_id"]) == (old, old + 1)
    requested = call(simulator, "POST", f"{ORDER}/{old}/renewals/{renewal['id']}/issue", json={})
    assert (requested.status_code, requested.json()["data"]["id"]) == (202, old + 1)
    simulator.wait_until_issued("example.com", old + 1)
    assert names(leaf(simulator, old + 1)) == names(leaf(simulator, old))
    assert leaf(simulator, old + 1).public_key() != leaf(simulator, old).public_key()


def test_a_certificate_is_renewed_automatically_thirty_days_before_it_expires(simulator: Simulator) -> None:
    issued(simulator, auto_renew=True)
    issued(simulator, name="api", auto_renew=False)
    simulator.control("POST", "/clock", {"advance_seconds": 59 * 86400})
    assert len(simulator.certificates("example.com")) == 2
    simulator.control("POST", "/clock", {"advance_seconds": 2 * 86400})
    simulator.wait_for_certificates("example.com", 3)
    new = simulator.certificates("example.com")[0]
    simulator.wait_until_issued("example.com", new["id"])
    assert (new["name"], new["auto_renew"]) == ("www", True)


def test_a_domain_that_is_not_delegated_cannot_be_validated(simulator: Simulator) -> None:
    simulator.control("POST", "/domains", {"name": "example.com", "delegated": False})
    number = simulator.purchase("example.com")
    simulator.issue("example.com", number)
    simulator.wait_for_state("example.com", number, "failed")


@pytest.mark.parametrize("simulator", [{"issued_lag": 3600}], indirect=True)
def test_a_download_can_lag_behind_issued(simulator: Simulator) -> None:
    number = issued(simulator)
    path = f"/domains/example.com/certificates/{number}/download"
    assert call(simulator, "GET", path).status_code == 428
    simulator.control("POST", "/clock", {"advance_seconds": 3601})
    assert call(simulator, "GET", path).status_code == 200


@pytest.mark.parametrize("simulator", [{"rate_limit": 3}], indirect=True)
def test_the_quota_is_counted_and_shown_in_every_answer(simulator: Simulator) -> None:
    seen = [call(simulator, "GET", "/domains") for _ in range(4)]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in seen] == ["2", "1", "0", "0"]
    assert [answer.status_code for answer in seen] == [200, 200, 200, 429]
    assert seen[3].json() == {"message": "quota exceeded"}
    assert len({answer.headers["X-RateLimit-Reset"] for answer in seen}) == 1
    simulator.control("POST", "/clock", {"advance_seconds": 3601})
    assert call(simulator, "GET", "/domains").headers["X-RateLimit-Remaining"] == "2"


@pytest.mark.parametrize("simulator", [{"rate_limit": 10}], indirect=True)
def test_another_program_can_spend_the_quota(simulator: Simulator) -> None:
    simulator.control("POST", "/spend", {"calls": 8})
    assert call(simulator, "GET", "/domains").headers["X-RateLimit-Remaining"] == "1"
    simulator.control("POST", "/spend", {"calls": 8})
    answer = call(simulator, "GET", "/domains")
    assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (429, "0")


@pytest.mark.parametrize("simulator", [{"distinct_purchase_ids": True}], indirect=True)
def test_a_purchase_can_have_an_id_of_its_own(simulator: Simulator) -> None:
    purchase = order(simulator).json()["data"]
    assert purchase["id"] != purchase["certificate_id"]
    assert call(simulator, "POST", f"{ORDER}/{purchase['id']}/issue", json={}).status_code == 404


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_scripted_fault_affects_its_call_and_no_other(simulator: Simulator, when: str) -> None:
    template = "/{account}/domains/{domain}/certificates/letsencrypt"
    simulator.fault(method="POST", path_template=template, when=when, action="reset")
    assert call(simulator, "GET", "/domains").status_code == 200
    with pytest.raises(requests.ConnectionError):
        order(simulator)
    assert len(simulator.certificates("example.com")) == (1 if when == "after" else 0)
    assert order(simulator).status_code == 201


def test_a_fault_can_replace_the_answer(simulator: Simulator) -> None:
    simulator.fault(
        method="GET",
        path_template="/{account}/domains",
        action="status",
        status=502,
        body="<html>",
        content_type="text/html",
        times=2,
    )
    assert [call(simulator, "GET", "/domains").status_code for _ in range(3)] == [502, 502, 200]
    answer = requests.post(f"{simulator.url}/_simulator/faults", json={"method": "GET"}, timeout=10)
    assert answer.status_code == 400


def test_the_official_client_works_with_it(simulator: Simulator) -> None:
    client = Client(access_token="simulated-token", base_url=simulator.url)
    answer = client.get("/whoami")
    assert answer.json()["data"]["account"]["id"] == 1010
    assert client.certificates.list_certificates(1010, "example.com").data == []
    client.session.close()


def test_settings_can_change_while_it_runs(simulator: Simulator) -> None:
    simulator.control("POST", "/settings", {"plan": "none"})
    assert order(simulator).status_code == 412
    for wrong in ({"port": 1}, {"latency": "x"}, {"verbose": 1}):
        assert requests.post(f"{simulator.url}/_simulator/settings", json=wrong, timeout=10).status_code == 400


def test_past_calls_can_be_listed(simulator: Simulator) -> None:
    order(simulator)
    (seen,) = simulator.calls()
    assert (seen["method"], seen["path_template"], seen["status"]) == (
        "POST",
        "/{account}/domains/{domain}/certificates/letsencrypt",
        201,
    )
    simulator.reset_calls()
    assert simulator.calls() == []


def test_a_busy_port_is_reported_in_one_line(simulator: Simulator) -> None:
    command = [sys.executable, "-m", "simulator", "--port", str(simulator.options["port"])]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == f"cannot listen on 127.0.0.1 port {simulator.options['port']}: Address already in use\n"


def test_it_documents_its_control_interface() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "simulator", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--issue-delay" in run.stdout
    assert "default: 5.0" in run.stdout
