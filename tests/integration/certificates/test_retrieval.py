"""From an event to files: two calls, whatever is doubled, late, early or forged; never an older over a newer."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app.db.clock import db_now
from app.db.models import Certificate, Delivery, Domain, Job, Lineage, Order
from app.services import Services
from tests.support.command_line import run
from tests.support.harness import WEBHOOK_SECRET, drain, event, jobs, let_stop_end, make_due
from tests.support.orders import EVENTS_PATH, order, post_event, show
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

DOWNLOAD = "GET /{account}/domains/{domain}/certificates/{certificate}/download"
KEY = "GET /{account}/domains/{domain}/certificates/{certificate}/private_key"


def calls(simulator: Simulator) -> list[str]:
    return [f"{call['method']} {call['path_template']}" for call in simulator.calls()]


def files(services: Services, slot: str) -> dict[str, str]:
    folder = services.settings.data_dir / "certificates" / slot
    return {path.stem: path.read_text() for path in folder.glob("*.pem")}


def test_an_ordered_certificate_is_fetched_with_four_calls(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    simulator.reset_calls()
    for _ in range(3):
        post_event(client, simulator, domain, data["certificate_id"])
        drain(services)
    assert calls(simulator) == [DOWNLOAD, KEY]
    found = client.get(f"/orders/{data['order_id']}").json["data"]
    assert (found["order_state"], found["state"]) == ("fetched", "issued")
    assert [delivery["state"] for delivery in found["deliveries"]] == ["delivered"]
    assert [line["step"] for line in found["timeline"]] == [
        "ordered", "purchased", "issuance requested", "event received", "fetched", "verified", "delivered",
    ]  # fmt: skip


def test_the_files_hold_a_pair_for_the_names_ordered(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain, san=["docs"])
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    pems = files(services, f"www.{domain}")
    leaf = x509.load_pem_x509_certificate(pems["cert"].encode())
    key = load_pem_private_key(pems["privkey"].encode(), password=None)
    assert key.public_key() == leaf.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {f"www.{domain}", domain, f"docs.{domain}"}
    chain = x509.load_pem_x509_certificates(pems["fullchain"].encode())
    assert chain[0] == leaf
    assert len(chain) == 2


def test_the_private_key_is_nowhere_but_at_the_destination(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = order(client, simulator, domain)
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    lines = files(services, f"www.{domain}")["privkey"].splitlines()
    secret = max(lines, key=len)
    assert secret not in capsys.readouterr().err
    assert secret not in client.get(f"/certificates/{data['certificate_id']}").text
    with services.database.read() as session:
        for table in (Certificate, Delivery, Order):
            for row in session.scalars(select(table)):
                assert secret not in str(vars(row))
    path = services.database.sqlite_path
    for file in Path(path).parent.glob(f"{path.name}*") if path else []:
        assert secret.encode() not in file.read_bytes()


def test_a_renewal_is_fetched_with_two_calls_and_replaces_its_predecessor(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    first = order(client, simulator, domain)["certificate_id"]
    post_event(client, simulator, domain, first)
    drain(services)
    second = simulator.renew(first)
    simulator.reset_calls()
    for _ in range(3):
        post_event(client, simulator, domain, second)
        drain(services)
    assert calls(simulator) == [DOWNLOAD, KEY]
    assert show(client, second)["lineage"] == show(client, first)["lineage"] == f"www.{domain}"
    assert files(services, f"www.{domain}")["cert"] == show(client, second)["certificate_pem"]


def test_a_late_event_of_an_old_certificate_never_replaces_a_newer_one(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    first = order(client, simulator, domain)["certificate_id"]
    second = simulator.renew(first)
    post_event(client, simulator, domain, second)
    drain(services)
    post_event(client, simulator, domain, first)
    drain(services)
    assert files(services, f"www.{domain}")["cert"] == show(client, second)["certificate_pem"]
    assert [delivery["state"] for delivery in show(client, first)["deliveries"]] == ["superseded"]


def test_an_event_that_overtakes_the_answer_of_the_issue_call_is_not_lost(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    issue = "/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/issue"
    simulator.fault(method="POST", path_template=issue, when="after", action="reset")
    data = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    assert data["order_state"] == "requesting"
    simulator.wait_until_issued(domain, data["certificate_id"])
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    make_due(services)
    drain(services)
    found = client.get(f"/orders/{data['order_id']}").json["data"]
    assert (found["order_state"], found["state"]) == ("fetched", "issued")
    with services.database.read() as session:  # so that reconciliation checks it if its renewal's event is lost
        domain_id = simulator.domain_id(domain)
        assert session.get_one(Certificate, data["certificate_id"]).domain_id == domain_id
        assert session.get_one(Domain, domain_id).name == domain


def test_a_forged_domain_does_not_fail_an_order_whose_domain_is_not_known_yet(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    issue = "/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/issue"
    simulator.fault(method="POST", path_template=issue, when="after", action="reset")
    data = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    simulator.wait_until_issued(domain, data["certificate_id"])
    other = simulator.domain_id(f"other-{domain}")
    forged = event(data["certificate_id"], other)
    assert client.post(f"/dnsimple/events/{WEBHOOK_SECRET}", json=forged).status_code == 200
    drain(services)
    # On a slow machine the order's own second attempt has come meanwhile.
    assert client.get(f"/orders/{data['order_id']}").json["data"]["order_state"] in {"requesting", "pending"}
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    assert client.get(f"/orders/{data['order_id']}").json["data"]["order_state"] == "fetched"


def test_a_certificate_ordered_elsewhere_is_fetched_too(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    bought = simulator.purchase(domain, name="shop")
    simulator.issue(domain, bought)
    simulator.wait_until_issued(domain, bought)
    post_event(client, simulator, domain, bought)
    drain(services)
    found = show(client, bought)
    assert (found["order_id"], found["lineage"], found["domain"]) == (None, f"shop.{domain}", domain)
    assert files(services, f"shop.{domain}")["cert"] == found["certificate_pem"]


def test_a_wildcard_gets_a_safe_name(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain, name="*")
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    assert set(files(services, f"_wildcard.{domain}")) == {"cert", "chain", "fullchain", "privkey"}


def test_two_lineages_of_one_common_name_have_two_slots(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    for san in ([], ["docs"]):
        data = order(client, simulator, domain, san=san)
        post_event(client, simulator, domain, data["certificate_id"])
        drain(services)
    with services.database.read() as session:
        names = sorted(session.scalars(select(Lineage.name)))
    assert names[0] == f"www.{domain}"
    assert names[1].startswith(f"www.{domain}-")
    assert all(files(services, name) for name in names)


# Hints that are wrong


def test_an_event_of_an_unknown_domain_changes_nothing(
    client: FlaskClient, services: Services, simulator: Simulator
) -> None:
    client.post(EVENTS_PATH, json=event(101967, 999_999_999))
    drain(services, ahead=True)
    assert calls(simulator) == ["GET /{account}/domains/{domain}"]
    assert client.get("/certificates").json["data"] == []


def test_an_event_of_an_unknown_certificate_changes_nothing(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    client.post(EVENTS_PATH, json=event(2**62, simulator.domain_id(domain)))
    drain(services, ahead=True)
    assert client.get("/certificates").json["data"] == []


def test_an_event_whose_certificate_belongs_to_another_domain_changes_nothing(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    """Whether the certificate is one that we know, or one that has to be read from DNSimple."""
    other = f"other-{domain}"
    known = order(client, simulator, domain)["certificate_id"]
    unknown = simulator.purchase(domain, name="x")
    simulator.issue(domain, unknown)
    simulator.wait_until_issued(domain, unknown)
    for certificate_id in (known, unknown):
        client.post(EVENTS_PATH, json=event(certificate_id, simulator.domain_id(other)))
    drain(services)
    found = {item["certificate_id"]: item["fetched_at"] for item in client.get("/certificates").json["data"]}
    assert found == {known: None}
    post_event(client, simulator, domain, known)  # and a true event is still handled afterwards
    drain(services)
    assert show(client, known)["fetched_at"] is not None


# Not yet, not at all, and not good


def test_a_certificate_that_is_not_handed_out_yet_is_waited_for(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    simulator.fault(
        method="GET",
        path_template=DOWNLOAD[4:],
        action="status",
        status=428,
        json={"message": "Certificate not issued"},
        times=3,
    )
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    (job,) = jobs(services, "fetch_certificate")
    assert (job.state, job.attempts, job.snoozes) == ("ready", 0, 1)
    make_due(services, "fetch_certificate")
    drain(services)
    make_due(services, "fetch_certificate")
    drain(services)
    make_due(services, "fetch_certificate")
    drain(services)
    assert show(client, data["certificate_id"])["fetched_at"] is not None


def test_a_certificate_that_is_not_returned_for_hours_fails_however_few_the_polls_were(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    simulator.rates(not_issued=1)
    post_event(client, simulator, domain, data["certificate_id"])
    with services.database.write() as session:
        session.execute(update(Job).where(Job.kind == "fetch_certificate").values(created_at=db_now(-4 * 3600)))
    for _ in range(6):
        assert jobs(services, "fetch_certificate")[0].state == "ready"
        drain(services)
        make_due(services, "fetch_certificate")
    assert jobs(services, "fetch_certificate")[0].state == "dead"
    assert client.get(f"/orders/{data['order_id']}").json["data"]["order_state"] == "failed"


def test_waiting_for_the_quota_is_no_sign_that_a_certificate_is_never_handed_out(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    post_event(client, simulator, domain, data["certificate_id"])
    with services.database.write() as session:
        session.execute(
            update(Job).where(Job.kind == "fetch_certificate").values(snoozes=100, created_at=db_now(-86400))
        )
    refused = {"action": "status", "status": 428, "json": {"message": "Certificate not issued"}}
    simulator.fault(method="GET", path_template=DOWNLOAD[4:], **refused)
    drain(services)
    assert jobs(services, "fetch_certificate")[0].state == "ready"
    make_due(services, "fetch_certificate")
    drain(services)
    assert show(client, data["certificate_id"])["fetched_at"] is not None


def test_a_failed_fetch_waits_for_the_certificate_again_when_it_is_retried(
    app: Flask, client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    simulator.rates(not_issued=1)
    post_event(client, simulator, domain, data["certificate_id"])
    for _ in range(26):
        drain(services)
        make_due(services, "fetch_certificate")
    (job,) = jobs(services, "fetch_certificate")
    assert job.state == "dead"
    run(app, "jobs", "retry", str(job.id))
    drain(services)
    assert jobs(services, "fetch_certificate")[0].state == "ready"
    simulator.rates(not_issued=0)
    make_due(services, "fetch_certificate")
    drain(services)
    assert show(client, data["certificate_id"])["fetched_at"] is not None


@pytest.mark.parametrize(("path", "field"), [(DOWNLOAD, "server"), (DOWNLOAD, "chain"), (KEY, "private_key")])
def test_what_does_not_verify_is_never_delivered(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, path: str, field: str
) -> None:
    """DNSimple answers with another certificate's part."""
    other = order(client, simulator, f"other-{domain}")["certificate_id"]
    data = order(client, simulator, domain)
    wrong = simulator.api("GET", f"/domains/other-{domain}/certificates/{other}/{path.rpartition('/')[2]}")
    right = simulator.api("GET", f"/domains/{domain}/certificates/{data['certificate_id']}/{path.rpartition('/')[2]}")
    mixed = right | {field: wrong[field]} if field != "chain" else right | {"chain": [wrong["server"]]}
    simulator.fault(method="GET", path_template=path[4:], action="status", status=200, json={"data": mixed})
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    assert files(services, f"www.{domain}") == {}
    found = client.get(f"/orders/{data['order_id']}").json["data"]
    assert (found["order_state"], found["failure"]["type"]) == ("failed", "fetch-failed")
    assert [job.state for job in jobs(services, "fetch_certificate")] == ["dead"]


def test_a_dead_fetch_can_be_retried(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    body = {"data": {"private_key": "nonsense"}}
    simulator.fault(method="GET", path_template=KEY[4:], action="status", status=200, json=body)
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    (job,) = jobs(services, "fetch_certificate")
    with services.database.write() as session:
        services.queue.requeue(session, job.id)
    drain(services)
    found = client.get(f"/orders/{data['order_id']}").json["data"]
    assert (found["order_state"], found["failure"]) == ("fetched", None)


def test_a_failed_first_issuance_is_detected_without_an_event(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    simulator.outcome(domain, "failed")
    data = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    simulator.wait_for_state(domain, data["certificate_id"], "failed")
    make_due(services, "poll_issuance")
    drain(services)
    found = client.get(f"/orders/{data['order_id']}").json["data"]
    assert (found["order_state"], found["state"]) == ("failed", "failed")
    assert "CAA" in found["failure"]["detail"]


def test_a_missed_event_is_recovered_by_polling(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    assert drain(services) == []
    make_due(services, "poll_issuance")
    drain(services)
    assert show(client, data["certificate_id"])["fetched_at"] is not None


def test_a_certificate_that_takes_long_is_polled_repeatedly(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    simulator.outcome(domain, "requesting")
    client.post("/issue_certificate", json={"domain": domain})
    for looks in (1, 2, 3):
        make_due(services, "poll_issuance")
        drain(services)
        (job,) = jobs(services, "poll_issuance")
        assert (job.state, job.snoozes, job.attempts) == ("ready", looks, 0)


# Destinations


def test_an_unpaid_account_delays_a_fetch_and_fails_none(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    data = order(client, simulator, domain)
    for status in (401, 402, 403):
        simulator.fault(
            method="GET", path_template=DOWNLOAD[4:], action="status", status=status, json={"message": "No."}
        )
    post_event(client, simulator, domain, data["certificate_id"])
    for _ in range(3):
        drain(services)
        (job,) = jobs(services, "fetch_certificate")
        assert (job.state, job.attempts) == ("ready", 0)
        make_due(services, "fetch_certificate")
        let_stop_end(services)
    drain(services)
    assert show(client, data["certificate_id"])["fetched_at"] is not None


def test_an_order_whose_certificate_has_gone_reports_it(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    simulator.outcome(domain, "requesting")
    data = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    path = "/{account}/domains/{domain}/certificates/{certificate}"
    simulator.fault(method="GET", path_template=path, action="status", status=404, json={"message": "gone"})
    make_due(services, "poll_issuance")
    drain(services)
    found = client.get(f"/orders/{data['order_id']}").json["data"]
    assert (found["order_state"], found["failure"]["type"]) == ("failed", "polling-failed")
