"""Old history is deleted in small batches; newer and unfinished rows stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.event import listen
from sqlalchemy.orm import Session

from app.auth.tokens import create_token
from app.db.clock import db_now
from app.db.models import Certificate, Delivery, Event, IdempotencyKey, Job, Lineage, Order, Worker
from app.deliveries.delivery import deliver, enqueue_delivery
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.operations.retention import BATCH, prune
from app.services import Services
from config import ConfigurationError
from tests.support.harness import make_settings

pytestmark = pytest.mark.both_databases

DAY = 86400.0


def run_prune(services: Services) -> None:
    with services.database.write() as session:
        services.queue.enqueue(session, JobKind.PRUNE)
    (claim,) = services.queue.claim(1, worker_id="test")
    prune(services, claim)


def add_event(session: Session, identifier: str, days: float) -> None:
    session.execute(
        insert(Event).values(
            request_identifier=identifier, name="zone.create", outcome="ignored", received_at=db_now(-days * DAY)
        )
    )


def add_job(session: Session, state: str, days: float) -> None:
    finished = None if state in {"ready", "running"} else db_now(-days * DAY)
    then = db_now(-days * DAY)
    due = db_now(DAY)  # not to be claimed by the test
    session.execute(
        insert(Job).values(
            kind=f"{state} {days:g}", args={}, state=state, created_at=then, run_at=due, finished_at=finished
        )
    )


def left(services: Services, column: Any) -> list[Any]:
    with services.database.read() as session:
        return sorted(session.scalars(select(column)))


def test_events_and_finished_jobs_are_deleted_after_the_retention_days(services: Services) -> None:
    with services.database.write() as session:
        for days in (89.9, 90.1, 400):
            add_event(session, f"{days:g} days", days)
            for state in ("done", "dead", "cancelled", "ready", "running"):
                add_job(session, state, days)
    run_prune(services)
    assert left(services, Event.request_identifier) == ["89.9 days"]
    unfinished = [f"{state} {days}" for state in ("ready", "running") for days in ("89.9", "90.1", "400")]
    assert left(services, Job.kind) == sorted(["cancelled 89.9", "dead 89.9", "done 89.9", "prune", *unfinished])


def test_each_transaction_deletes_a_small_batch(services: Services) -> None:
    with services.database.write() as session:
        then = session.scalars(select(db_now(-100 * DAY))).one()
        session.execute(
            insert(Event),
            [
                {"request_identifier": f"e{number}", "name": "zone.create", "outcome": "ignored", "received_at": then}
                for number in range(2 * BATCH + 1)
            ],
        )
    remaining: list[int] = []

    def note(connection: Connection) -> None:
        remaining.append(connection.scalar(select(func.count()).select_from(Event)) or 0)

    listen(services.database.engine, "commit", note)
    run_prune(services)
    assert sorted(set(remaining)) == [0, 1, BATCH + 1, 2 * BATCH + 1]


def test_workers_without_a_heartbeat_are_deleted_after_a_day(services: Services) -> None:
    with services.database.write() as session:
        for name, days in (("late", 0.9), ("gone", 1.1)):
            session.execute(insert(Worker).values(id=name, host="h", pid=1, last_heartbeat_at=db_now(-days * DAY)))
    run_prune(services)
    assert left(services, Worker.id) == ["late"]


def test_an_expired_idempotency_key_is_deleted_alone(services: Services) -> None:
    client, _ = create_token(services.database, "tests", ("issue",))
    with services.database.write() as session:
        names: Sequence[str] = ["customer.example"]
        common = {"domain": names[0], "name": "", "common_name": names[0], "san": [], "names": names}
        session.add(
            Order(id="ord_1", account_id=1, auto_renew=True, signature_algorithm="ECDSA", state="accepted", **common)
        )
        session.flush()
        for key in ("old", "young"):
            session.add(IdempotencyKey(client_id=client.id, key=key, request_digest="d", order_id="ord_1"))
        session.flush()
        old = update(IdempotencyKey).where(IdempotencyKey.key == "old")
        session.execute(old.values(created_at=db_now(-1.1 * DAY)))
    run_prune(services)
    assert left(services, IdempotencyKey.key) == ["young"]


def add_certificate(services: Services, number: int, expires_in: float, installed: float, *deliveries: str) -> None:
    """Days until it expires (may be negative) and since it was installed; the states of its deliveries."""
    with services.database.write() as session:
        session.execute(
            insert(Certificate).values(
                id=number, account_id=1, domain="d.example", state="issued", common_name="d.example", names=[],
                encrypted_key=b"sealed", not_after=db_now(expires_in * DAY), fetched_at=db_now(-installed * DAY),
            )
        )  # fmt: skip
        for name, state in enumerate(deliveries):
            session.execute(insert(Delivery).values(certificate_id=number, destination=str(name), state=state))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("lineage", [1, 2, 3, 4, 6, 7]), ("delivered", [2, 3, 4, 6]), ("30", [1, 3, 4, 6])],
)
def test_private_keys_are_retained_according_to_the_policy(services: Services, policy: str, kept: list[int]) -> None:
    add_certificate(services, 1, 60, 5, "delivered", "superseded")
    add_certificate(services, 2, 60, 31, "delivered", "failed")
    add_certificate(services, 3, 60, 5)  # it has no delivery
    add_certificate(services, 4, 60, 31, "delivered", "failing")
    add_certificate(services, 5, -0.1, 90, "delivered")
    add_certificate(services, 6, -0.1, 90, "pending")
    add_certificate(services, 7, 60, 31, "delivered")
    run_prune(replace(services, settings=services.settings.model_copy(update={"private_key_retention": policy})))
    with services.database.read() as session:
        found = session.scalars(select(Certificate.id).where(Certificate.encrypted_key.is_not(None)))
        assert sorted(found) == kept


def test_a_delivery_whose_key_was_deleted_names_the_remedy(services: Services) -> None:
    add_certificate(services, 1, 60, 5)
    with services.database.write() as session:
        session.execute(insert(Lineage).values(id=1, account_id=1, domain="d.example", names_digest="x", name="d"))
        session.execute(update(Certificate).values(encrypted_key=None, lineage_id=1, not_before=db_now(-DAY)))
        enqueue_delivery(services.queue, services.destinations, session, 1, "files")
    (claim,) = services.queue.claim(1, worker_id="test")
    with pytest.raises(PermanentError, match=r"PRIVATE_KEY_RETENTION.*certcourier certificates refetch 1"):
        deliver(services, claim)


def test_history_is_never_kept_for_less_than_three_days(services: Services) -> None:
    settings = services.settings
    with pytest.raises(ConfigurationError, match="RETENTION_DAYS"):
        make_settings(settings.database_url, settings.dnsimple_base_url, settings.data_dir, retention_days=2)
