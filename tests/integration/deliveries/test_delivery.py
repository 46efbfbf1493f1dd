"""The delivery of one certificate to one destination: independent of others, its failures recorded."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from app.db.models import Delivery
from app.destinations.base import Bundle, DeliveryResult, DestinationConfig, DestinationUnavailableError
from app.errors import RetryableError
from app.services import Services
from app.worker.worker import run_job
from tests.support.harness import drain, make_due
from tests.support.orders import order, post_event, show
from tests.support.simulator_process import Simulator


class Broken:
    """A destination that is away for a while."""

    config = DestinationConfig(name="broken")

    def __init__(self) -> None:
        self.error: Exception | None = DestinationUnavailableError("the host is down; start it")
        self.delivered: list[Bundle] = []

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        if self.error:
            raise self.error
        self.delivered.append(bundle)
        return DeliveryResult("delivered", "there")

    def check(self) -> None:
        pass


def test_a_broken_destination_delays_no_other_and_is_retried(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    broken = Broken()
    services.destinations["broken"] = broken
    data = order(client, simulator, domain)
    post_event(client, simulator, domain, data["certificate_id"])
    drain(services)
    deliveries = {item["destination"]: item for item in show(client, data["certificate_id"])["deliveries"]}
    assert deliveries["files"]["state"] == "delivered"
    assert (deliveries["broken"]["state"], deliveries["broken"]["detail"]) == ("failing", "the host is down; start it")
    broken.error = None
    make_due(services)
    drain(services)
    deliveries = {item["destination"]: item for item in show(client, data["certificate_id"])["deliveries"]}
    assert deliveries["broken"]["state"] == "delivered"
    assert [bundle.slot for bundle in broken.delivered] == [f"www.{domain}"]


def test_a_destination_that_was_taken_away_is_named(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    services.destinations["gone"] = Broken()
    data = order(client, simulator, domain)
    post_event(client, simulator, domain, data["certificate_id"])
    claims = services.queue.claim(1, worker_id="test")
    run_job(services, claims[0])
    del services.destinations["gone"]  # type: ignore[attr-defined]
    drain(services)
    deliveries = {item["destination"]: item for item in show(client, data["certificate_id"])["deliveries"]}
    assert deliveries["gone"]["state"] == "failed"
    assert "no longer configured" in deliveries["gone"]["detail"]
    assert deliveries["files"]["state"] == "delivered"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (DestinationUnavailableError("the host is down"), "the host is down"),
        (RetryableError("busy", retry_after=3600), "busy"),
        (ZeroDivisionError("division by zero"), "unexpected error: ZeroDivisionError: division by zero"),
    ],
)
def test_a_failed_attempt_is_shown_as_failing_whatever_was_raised(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str, error: Exception, detail: str
) -> None:
    broken = Broken()
    broken.error = error
    services.destinations["broken"] = broken
    certificate_id = order(client, simulator, domain)["certificate_id"]
    post_event(client, simulator, domain, certificate_id)
    drain(services)
    deliveries = {row["destination"]: row for row in show(client, certificate_id)["deliveries"]}
    assert (deliveries["broken"]["state"], deliveries["broken"]["detail"]) == ("failing", detail)


def test_unfinished_deliveries_of_a_destination_are_found_along_an_index(services: Services) -> None:
    if not services.database.is_sqlite:
        pytest.skip("PostgreSQL reads a table this small without an index")
    query = select(Delivery.detail).where(Delivery.destination == "files", Delivery.is_unfinished())
    with services.database.read() as session:
        compiled: Any = query.compile(session.get_bind(), compile_kwargs={"render_postcompile": True})
        parameters = tuple(compiled.params[name] for name in compiled.positiontup)
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", parameters).all()
    assert "ix_deliveries_unfinished" in str(plan)
