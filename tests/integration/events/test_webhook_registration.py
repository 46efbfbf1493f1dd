"""Our webhook at DNSimple: exactly one, at the right URL; others' are left alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from app.crypto.webhook_secrets import PROPAGATION_SECONDS, WebhookSecrets
from app.db.clock import db_now
from app.db.models import WebhookSecret
from app.jobs.kinds import JobKind
from app.services import Services
from app.worker.worker import run_job
from tests.support.harness import drain, jobs, make_due, register_webhook
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

OTHER = "https://other.example/hooks/secret"


@pytest.fixture(autouse=True)
def _no_webhooks(simulator: Simulator) -> Any:
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    simulator.reset_calls()


def urls(simulator: Simulator) -> list[str]:
    return [hook["url"] for hook in simulator.api("GET", "/webhooks")]


def test_it_is_registered_once_and_found_again(services: Services, simulator: Simulator) -> None:
    register_webhook(services)
    register_webhook(services)
    assert urls(simulator) == [services.webhook_url]
    assert [call["method"] for call in simulator.calls()] == ["GET", "POST", "GET"]


def test_it_is_registered_once_by_whoever_starts_first(services: Services, simulator: Simulator) -> None:
    def start(_: int) -> None:
        with services.database.write() as session:
            services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
        for claim in services.queue.claim(5, worker_id="w"):
            run_job(services, claim)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    drain(services)
    assert urls(simulator) == [services.webhook_url]


def test_a_changed_secret_replaces_ours_and_leaves_others_alone(services: Services, simulator: Simulator) -> None:
    simulator.api("POST", "/webhooks", {"url": OTHER})
    register_webhook(services)
    old = services.webhook_url
    given = WebhookSecrets(services.database, services.encryptor, given="another-secret-Kx3Vq7Rk2Xz9Jm4Tb8WpLd5nGh")
    changed = replace(services, webhook_secrets=given)
    register_webhook(changed)
    assert urls(simulator) == [OTHER, old], "every process has to hear of it first"
    with services.database.write() as session:
        session.execute(update(WebhookSecret).values(created_at=db_now(-PROPAGATION_SECONDS)))
    make_due(services)
    register_webhook(changed)
    assert urls(simulator) == [OTHER, changed.webhook_url]
    assert changed.webhook_url != old


def test_a_changed_public_url_replaces_ours(services: Services, simulator: Simulator) -> None:
    register_webhook(services)
    moved = replace(services, settings=services.settings.model_copy(update={"public_url": "https://new.example"}))
    register_webhook(moved)
    assert urls(simulator) == [moved.webhook_url]
    assert moved.webhook_url.startswith("https://new.example/dnsimple/events/")


def test_doubles_of_ours_are_removed(services: Services, simulator: Simulator) -> None:
    for _ in range(2):
        simulator.api("POST", "/webhooks", {"url": services.webhook_url})
    register_webhook(services)
    assert urls(simulator) == [services.webhook_url]


def test_a_lost_answer_to_its_creation_does_not_double_it(services: Services, simulator: Simulator) -> None:
    simulator.fault(method="POST", path_template="/{account}/webhooks", when="after", action="reset")
    register_webhook(services)
    assert [job.state for job in jobs(services)] == ["ready"]
    make_due(services)
    drain(services)
    assert urls(simulator) == [services.webhook_url]
