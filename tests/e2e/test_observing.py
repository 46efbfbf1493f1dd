"""What can be seen from outside: metrics of several processes, and one timeline across all logs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support import databases
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until


@pytest.fixture
def pair(tmp_path: Path, simulator: Simulator) -> Iterator[Stack]:
    """Two web processes and a worker on PostgreSQL."""
    url = databases.new_postgres_database()
    stack = Stack(url, tmp_path, simulator, job_lease_seconds=2, web_workers=2, metrics_cache_seconds=0)
    yield stack.start()
    stack.kill_all()
    databases.release_postgres_database(url)


def scrape(stack: Stack) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = requests.get(f"{stack.url}/metrics", headers=stack.headers(), timeout=30)
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def count(stack: Stack, metric: str, /, **labels: str) -> float:
    """The sum of all series that have these labels."""
    wanted = set(labels.items())
    return sum(value for (name, has), value in scrape(stack).items() if name == metric and wanted <= has)


def children(stack: Stack) -> list[int]:
    return [child.pid for child in psutil.Process(stack.processes["web"].pid).children()]


def test_metrics_add_up_over_web_processes_and_the_worker(pair: Stack, simulator: Simulator) -> None:
    """Whichever process is asked; and when one of them is killed and replaced, nothing that it counted is lost."""
    simulator.clear_faults()
    simulator.wait_for_webhooks(1)
    for number in range(6):
        pair.wait_delivered(pair.order(f"customer{number}.example")["certificate_id"])
    simulator.wait_until_delivered()
    requests_, calls = (
        "certcourier_http_request_duration_seconds_count",
        "certcourier_dnsimple_call_duration_seconds_count",
    )
    certificate = "/{account}/domains/{domain}/certificates/{certificate}"

    def looks_right() -> None:
        assert count(pair, requests_, route="/issue_certificate", status="202") == 6
        assert count(pair, calls, path="/{account}/domains/{domain}/certificates/letsencrypt", status="201") == 6
        assert count(pair, calls, path=f"{certificate}/private_key", status="200") == 6
        assert count(pair, "certcourier_events_total", outcome="queued") == 6
        assert count(pair, "certcourier_events_total", outcome="duplicate", name="certificate.issue") == 12
        assert count(pair, "certcourier_orders", state="fetched") == 6
        assert count(pair, "certcourier_workers") == 1

    for _ in range(10):  # answered by both processes
        looks_right()
    before = children(pair)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(children(pair)) == 2 and not set(before) & set(children(pair)), "two new processes")
    wait_until(pair.is_ready, "ready")
    looks_right()
    files = {file.name.rpartition("-")[2] for file in (pair.folder / "var" / "metrics").glob("*.db")}
    assert not {f"{pid}.db" for pid in before} & files


def lines(stack: Stack, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.log(name).splitlines() if line.startswith("{")]


def test_one_order_can_be_followed_by_its_ids_through_web_and_worker(stack: Stack, simulator: Simulator) -> None:
    simulator.clear_faults()
    simulator.wait_for_webhooks(1)
    order = stack.order("customer.example")
    stack.wait_delivered(order["certificate_id"])
    simulator.wait_until_delivered()

    def steps(name: str, **ids: object) -> list[str]:
        return [line["event"] for line in lines(stack, name) if ids.items() <= line.items()]

    by_order = {"order_id": order["order_id"]}
    assert steps("web", **by_order) == ["ordered", "purchased", "issuance requested"]
    assert steps("worker", **by_order) == ["event received", "fetched", "verified", "delivered"]

    by_certificate = {"certificate_id": order["certificate_id"]}
    assert steps("web", **by_certificate) == ["purchased", "issuance requested"] + 3 * ["event received"]
    assert steps("worker", **by_certificate) == ["event received", "fetched", "verified", "delivered"]

    queued = next(line for line in lines(stack, "web") if line.get("outcome") == "queued")
    by_event = {"request_identifier": queued["request_identifier"]}
    assert steps("web", **by_event) == 3 * ["event received"]
    assert steps("worker", **by_event) == ["event received", "fetched", "verified"]

    # One request's lines are held together by its ID, one job's by the job's.
    ordered = next(line for line in lines(stack, "web") if line["event"] == "ordered")
    assert steps("web", request_id=ordered["request_id"]) == ["ordered", "purchased", "issuance requested", "request"]
    delivered = next(line for line in lines(stack, "worker") if line["event"] == "delivered")
    assert delivered["job"] == "deliver"
    assert steps("worker", job_id=delivered["job_id"]) == ["delivered"]
