"""From delivered to served: real nginx, which goes on serving the old certificate until it is told to reload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from flask.testing import FlaskClient
from sqlalchemy import select, update

from app.db.clock import db_now
from app.db.models import Certificate, EndpointCheck
from app.deliveries import endpoint_checks
from app.destinations.files.destination import FilesConfig, FilesDestination
from app.endpoints.probe import ProbeResult, Probes
from app.endpoints.registry import Endpoint
from app.jobs.kinds import JobKind
from app.services import Services
from tests.support.harness import drain, jobs, make_due
from tests.support.nginx import Nginx
from tests.support.orders import order_and_fetch, post_event
from tests.support.simulator_process import Simulator
from tests.support.x509 import Authority


def with_endpoints(services: Services, *endpoints: Endpoint) -> Services:
    return replace(services, endpoints={endpoint.name: endpoint for endpoint in endpoints})


def renew(client: FlaskClient, services: Services, simulator: Simulator, domain: str, old: int) -> int:
    new = simulator.renew(old)
    post_event(client, simulator, domain, new)
    drain(services)
    return new


def look_now(services: Services) -> None:
    """Let the time of the next look come, and look."""
    with services.database.write() as session:
        session.execute(update(EndpointCheck).values(next_check_at=db_now(-1)))
    run_periodic(services)


def run_periodic(services: Services) -> None:
    make_due(services, "check_endpoint")
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.CHECK_ENDPOINT)
    drain(services)


def end_grace(services: Services) -> None:
    with services.database.write() as session:
        session.execute(update(EndpointCheck).values(deadline_at=db_now(-1)))


def endpoints(client: FlaskClient, certificate_id: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/certificates/{certificate_id}").json["data"]["endpoints"]
    return found


def state(client: FlaskClient, certificate_id: int) -> str:
    (endpoint,) = endpoints(client, certificate_id)
    return str(endpoint["state"])


def steps(client: FlaskClient, certificate_id: int) -> list[str]:
    timeline = client.get(f"/certificates/{certificate_id}").json["data"]["timeline"]
    return [line["step"] for line in timeline if line["step"] in {"served", "stale", "unreachable"}]


def leaf(services: Services, certificate_id: int) -> bytes:
    with services.database.read() as session:
        pem = session.get_one(Certificate, certificate_id).leaf_pem or ""
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


@pytest.fixture
def first(client: FlaskClient, services: Services, simulator: Simulator, domain: str) -> int:
    """A certificate that is installed before any endpoint is named."""
    return order_and_fetch(client, services, simulator, domain)


@pytest.fixture
def nginx(services: Services, first: int, domain: str, tmp_path: Path) -> Iterator[Nginx]:  # noqa: ARG001, its files
    with Nginx(tmp_path / "nginx", services.settings.data_dir.absolute() / "certificates" / f"www.{domain}") as nginx:
        yield nginx


@pytest.fixture
def proved(services: Services, nginx: Nginx) -> Services:
    return with_endpoints(services, Endpoint(name="web", address=f"127.0.0.1:{nginx.port}"))


def test_an_endpoint_named_later_is_proven_for_what_was_delivered_before(
    client: FlaskClient, proved: Services, first: int
) -> None:
    assert endpoints(client, first) == []
    run_periodic(proved)
    look_now(proved)
    assert state(client, first) == "served"
    assert steps(client, first) == ["served"]


def test_a_renewal_that_nginx_has_not_loaded_is_stale_after_the_grace_and_served_after_a_reload(
    client: FlaskClient, proved: Services, simulator: Simulator, domain: str, first: int, nginx: Nginx
) -> None:
    new = renew(client, proved, simulator, domain, first)
    look_now(proved)
    assert state(client, new) == "unverified"
    end_grace(proved)
    look_now(proved)
    (endpoint,) = endpoints(client, new)
    assert endpoint["state"] == "stale"
    assert f"the older certificate {first}, serial" in endpoint["detail"]
    assert "valid until" in endpoint["detail"]
    nginx.reload(leaf(proved, new))
    look_now(proved)
    assert state(client, new) == "served"
    assert steps(client, new) == ["stale", "served"]
    assert endpoints(client, first) == []


def test_a_delivery_is_looked_at_by_a_job_of_its_own(
    client: FlaskClient, proved: Services, simulator: Simulator, domain: str, first: int, nginx: Nginx
) -> None:
    new = renew(client, proved, simulator, domain, first)
    (job,) = jobs(proved, "check_endpoint")
    assert (job.args, job.state) == ({"endpoint": "web"}, "ready")
    nginx.reload(leaf(proved, new))
    with proved.database.write() as session:
        session.execute(update(EndpointCheck).values(next_check_at=db_now(-1)))
    make_due(proved, "check_endpoint")
    drain(proved)
    assert state(client, new) == "served"
    assert [job.state for job in jobs(proved, "check_endpoint")] == ["done"]


def test_a_server_that_stops_serving_it_is_given_the_same_grace(
    client: FlaskClient, proved: Services, first: int, nginx: Nginx
) -> None:
    run_periodic(proved)
    look_now(proved)
    elsewhere = with_endpoints(proved, Endpoint(name="web", address=f"127.0.0.1:{nginx.port}"))
    with proved.database.write() as session:
        session.execute(update(Certificate).values(fingerprint="0" * 64))
    look_now(elsewhere)
    assert state(client, first) == "served"
    end_grace(elsewhere)
    look_now(elsewhere)
    (endpoint,) = endpoints(client, first)
    assert endpoint["state"] == "stale"
    assert "a certificate that Certcourier did not install" in endpoint["detail"]


def test_an_endpoint_that_does_not_answer_is_unreachable(client: FlaskClient, services: Services, first: int) -> None:
    closed = with_endpoints(services, Endpoint(name="web", address="127.0.0.1:1"))
    run_periodic(closed)
    end_grace(closed)
    look_now(closed)
    (endpoint,) = endpoints(client, first)
    assert endpoint["state"] == "unreachable"
    assert endpoint["detail"] == "127.0.0.1:1: Connection refused"


def test_an_endpoint_waits_for_the_destinations_that_it_reads_from(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    slow = FilesDestination(FilesConfig(name="slow", kind="files", path=blocked / "below"))
    both = replace(
        with_endpoints(
            services,
            Endpoint(name="every", address="127.0.0.1:1"),
            Endpoint(name="fast", address="127.0.0.1:1", after=("files",)),
        ),
        destinations={"slow": slow, **services.destinations},
    )
    number = order_and_fetch(client, both, simulator, domain)
    assert [endpoint["endpoint"] for endpoint in endpoints(client, number)] == ["fast"]
    blocked.unlink()
    make_due(both, "deliver")
    drain(both)
    assert [endpoint["endpoint"] for endpoint in endpoints(client, number)] == ["every", "fast"]


def test_endpoints_that_are_not_named_any_more_are_forgotten(
    client: FlaskClient, proved: Services, services: Services, first: int
) -> None:
    run_periodic(proved)
    assert len(endpoints(client, first)) == 1
    run_periodic(services)
    assert endpoints(client, first) == []


def test_while_all_places_are_taken_a_look_is_put_off(proved: Services, first: int) -> None:  # noqa: ARG001
    run_periodic(proved)
    narrow = replace(proved, probes=Probes(1))
    with narrow.probes.slot() as free:
        assert free
        look_now(narrow)
    (job,) = [job for job in jobs(proved, "check_endpoint") if job.args]
    assert (job.state, job.last_error) == ("ready", "waits for checks of other endpoints")
    with proved.database.read() as session:
        assert session.scalar(select(EndpointCheck.last_checked_at)) is None


def test_one_address_of_several_that_did_not_reload_is_enough(proved: Services, first: int) -> None:
    run_periodic(proved)
    good = ProbeResult("10.0.0.1:443", leaf(proved, first))
    other = x509.load_pem_x509_certificate(Authority().issue("www.example.com").leaf.encode())
    bad = ProbeResult("10.0.0.2:443", other.public_bytes(Encoding.DER))
    silent = ProbeResult("10.0.0.3:443", None, "Connection refused")
    with proved.database.read() as session:
        row = session.scalars(select(EndpointCheck)).one()
        verdicts = [
            endpoint_checks._evaluate(session, row, seen) for seen in ([good], [good, silent], [good, silent, bad])
        ]
    assert [verdict.state for verdict in verdicts] == ["served", "unreachable", "stale"]
    assert verdicts[2].detail.startswith("10.0.0.2:443 serves a certificate that Certcourier did not install")


def test_a_successor_that_is_served_early_is_not_stale(
    client: FlaskClient, proved: Services, services: Services, simulator: Simulator, domain: str, first: int
) -> None:
    run_periodic(proved)
    new = renew(client, services, simulator, domain, first)  # as if its delivery were not complete yet
    with proved.database.read() as session:
        row = session.scalars(select(EndpointCheck)).one()
        assert row.certificate_id == first
        verdict = endpoint_checks._evaluate(session, row, [ProbeResult("10.0.0.1:443", leaf(proved, new))])
    assert (verdict.state, verdict.detail) == ("served", f"10.0.0.1:443 serves its successor, certificate {new}")


def test_pauses_grow_while_another_certificate_is_served(
    client: FlaskClient, proved: Services, simulator: Simulator, domain: str, first: int
) -> None:
    renew(client, proved, simulator, domain, first)
    pauses = []
    for _ in range(6):
        look_now(proved)
        with proved.database.read() as session:
            row = session.scalars(select(EndpointCheck)).one()
        assert row.last_checked_at is not None
        pauses.append(round((row.next_check_at - row.last_checked_at).total_seconds()))
    assert pauses == [*map(round, endpoint_checks._PAUSES), 30]
