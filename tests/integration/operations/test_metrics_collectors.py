"""GET /metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from app.auth.tokens import create_token
from app.db.installation_state import WEBHOOK_ID
from app.db.models import Job, Quota, Worker
from app.metrics import ProcessMetrics, event_label, fold_dead_processes
from app.operations.metrics_collectors import MetricsCollector
from app.services import Services, build_services
from config import Settings
from tests.support.documents import documented_metrics
from tests.support.harness import ACCOUNT, WEBHOOK_SECRET, drain, event
from tests.support.records import add_certificate
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

EVENTS = f"/dnsimple/events/{WEBHOOK_SECRET}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"metrics_cache_seconds": 0.0})


def scrape(client: FlaskClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(client: FlaskClient, metric: str, /, **labels: str) -> float | None:
    return scrape(client).get((f"certcourier_{metric}", frozenset(labels.items())))


def test_it_requires_a_token_with_the_scope_read(
    client: FlaskClient, anonymous: FlaskClient, services: Services
) -> None:
    assert client.get("/metrics").content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert anonymous.get("/metrics").status_code == 401
    _, token = create_token(services.database, "shop", ("issue",))
    assert anonymous.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 403


def test_every_metric_is_documented_and_every_documented_metric_exists(client: FlaskClient) -> None:
    lines = client.get("/metrics").text.splitlines()
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == documented_metrics()


def test_an_order_is_counted_from_pending_to_fetched(
    client: FlaskClient, services: Services, simulator: Simulator, domain: str
) -> None:
    order = client.post("/issue_certificate", json={"domain": domain}).json["data"]
    assert sample(client, "orders", state="pending") == 1
    assert sample(client, "order_oldest_waiting_seconds") > 0  # type: ignore[operator]
    simulator.wait_until_issued(domain, order["certificate_id"])
    client.post(EVENTS, json=event(order["certificate_id"], simulator.domain_id(domain)))
    drain(services)
    found = scrape(client)
    expected = {
        'orders{state="pending"}': 0,
        'orders{state="fetched"}': 1,
        'orders_fetched_last_day{within="any"}': 1,
        'deliveries{destination="files",state="delivered"}': 1,
        'events_last_hour{name="certificate.issue",outcome="queued"}': 1,
        'events_total{name="certificate.issue",outcome="queued"}': 1,
        "order_oldest_waiting_seconds": 0,
        "fetches_unannounced_last_day": 0,
        'lineages_days_left{below="any"}': 1,
    }
    lines = client.get("/metrics").text.splitlines()
    for line, value in expected.items():
        assert f"certcourier_{line} {value:.1f}" in lines
    calls = {
        dict(labels)["path"]: value
        for (name, labels), value in found.items()
        if name.endswith("call_duration_seconds_count")
    }
    assert calls["/{account}/domains/{domain}/certificates/{certificate}/download"] == 1
    assert not any(domain in path for path in calls)


def test_a_duplicate_event_is_counted_as_one(client: FlaskClient) -> None:
    body = event(1, 2, name="zone_record.create")
    for _ in range(3):
        client.post(EVENTS, json=body)
    assert sample(client, "events_total", name="other", outcome="ignored") == 1
    assert sample(client, "events_total", name="other", outcome="duplicate") == 2
    assert sample(client, "events_last_hour", name="other", outcome="ignored") == 1
    assert sample(client, "event_newest_age_seconds") < 60  # type: ignore[operator]


def test_foreign_input_never_becomes_a_label(client: FlaskClient) -> None:
    client.get("/no/such/page")
    client.open("/orders", method="BREW")
    client.post("/dnsimple/events/wrong-secret", json={})
    page = client.get("/metrics").text
    assert "/no/such/page" not in page
    assert "BREW" not in page
    assert "wrong-secret" not in page
    assert 'route="(unknown route)"' in page
    assert 'method="other"' in page
    assert event_label("certificate.newest_invention") == "other"


def test_days_and_lifetime_left_count_the_newest_certificate_of_each_lineage(
    client: FlaskClient, services: Services
) -> None:
    day = timedelta(days=1)
    add_certificate(services, 1, left=2 * day, lifetime=90 * day)  # replaced by the next
    add_certificate(services, 2, left=80 * day, lifetime=90 * day, lineage=1)
    add_certificate(services, 3, left=5 * day, lifetime=6 * day)
    add_certificate(services, 4, left=12 * day, lifetime=64 * day)
    add_certificate(services, 5, left=-day / 2, lifetime=6 * day)
    add_certificate(services, 6, left=-8 * day, lifetime=90 * day)  # expired too long ago
    found = scrape(client)
    days = {n: found["certcourier_lineages_days_left", frozenset({("below", n)})] for n in ("0", "7", "14", "90")}
    assert days == {"0": 1, "7": 2, "14": 3, "90": 4}
    share = {n: found["certcourier_lineages_lifetime_left", frozenset({("below", n)})] for n in ("0", "0.1", "0.25")}
    assert share == {"0": 1, "0.1": 1, "0.25": 2}
    assert found["certcourier_lineages_lifetime_left", frozenset({("below", "any")})] == 4
    assert sample(client, "lineage_days_left", lineage="l3") == pytest.approx(5, abs=0.01)
    assert sample(client, "lineage_lifetime_left", lineage="l3") == pytest.approx(5 / 6, abs=0.01)


def test_only_the_lineages_that_expire_first_are_named(services: Services) -> None:
    for number in range(1, 6):
        add_certificate(services, number, left=timedelta(days=10 - number), lifetime=timedelta(days=90))
    settings = services.settings.model_copy(update={"metrics_lineages": 2})
    few = build_services(settings)
    named = next(metric for metric in MetricsCollector(few).collect() if metric.name == "certcourier_lineage_days_left")
    assert [sample.labels["lineage"] for sample in named.samples] == ["l5", "l4"]
    few.database.close()


def test_jobs_are_counted_by_kind_and_state(client: FlaskClient, services: Services) -> None:
    now = datetime.now(UTC)
    with services.database.write() as session:
        session.add(Job(kind="fetch_certificate", args={}, run_at=now - timedelta(minutes=10)))
        session.add(Job(kind="poll_issuance", args={}, run_at=now + timedelta(hours=1)))
        session.add(Job(kind="prune", args={}, state="dead", finished_at=now))
        session.add(Job(kind="prune", args={}, state="done", finished_at=now))
        session.add(Job(kind="fetch_certificate", args={"request_identifier": None}, state="done", finished_at=now))
    found = scrape(client)
    jobs = {dict(labels)["kind"]: value for (name, labels), value in found.items() if name == "certcourier_jobs"}
    assert jobs == {"fetch_certificate": 1, "poll_issuance": 1, "prune": 1}
    assert sample(client, "job_oldest_due_seconds", kind="fetch_certificate") == pytest.approx(600, abs=60)
    assert sample(client, "job_oldest_due_seconds", kind="poll_issuance") == 0
    assert sample(client, "fetches_unannounced_last_day") == 1


def test_the_quota_is_reported_as_of_now(client: FlaskClient, services: Services) -> None:
    assert sample(client, "quota_limit") is None
    now = datetime.now(UTC)
    values = {"call_limit": 2400, "remaining": 7, "unknown_left": 5, "window_seconds": 3600}
    with services.database.write() as session:
        session.add(Quota(account_id=ACCOUNT, reset_at=now + timedelta(minutes=10), **values))
    assert sample(client, "quota_remaining") == 7
    assert sample(client, "quota_blocked") == 0
    with services.database.write() as session:
        row = session.get_one(Quota, ACCOUNT)
        row.reset_at, row.blocked_until = now - timedelta(seconds=1), now + timedelta(minutes=1)
    assert sample(client, "quota_remaining") == 2400
    assert sample(client, "quota_blocked") == 1
    with services.database.write() as session:
        session.get_one(Quota, ACCOUNT).blocked_token = "another's"
    assert sample(client, "quota_blocked") == 0


def test_workers_and_the_webhook_are_reported(client: FlaskClient, services: Services) -> None:
    assert sample(client, "workers") == 0
    assert sample(client, "webhook_registered") == 0
    with services.database.write() as session:
        session.add(Worker(id="wrk_1", host="a", pid=1))
        session.add(Worker(id="wrk_2", host="b", pid=1, last_heartbeat_at=datetime.now(UTC) - timedelta(minutes=5)))
        WEBHOOK_ID.set(session, 1)
    assert sample(client, "workers") == 1
    assert sample(client, "webhook_registered") == 1
    assert sample(client, "worker_heartbeat_age_seconds") < 60  # type: ignore[operator]


def test_metrics_are_read_again_only_when_they_are_old(services: Services) -> None:
    clock = iter([0.0, 0.0, 0.0, 14.0, 15.0, 15.0, 15.0])
    settings = services.settings.model_copy(update={"metrics_cache_seconds": 15.0})
    slow = build_services(settings)
    collector = MetricsCollector(slow, clock=lambda: next(clock))
    first = collector.collect()
    assert collector.collect() is first
    assert collector.collect() is not first
    slow.database.close()


_COUNT = """
import sys
from pathlib import Path
from app.metrics import ProcessMetrics
metrics = ProcessMetrics()
metrics.share(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    metrics.count_event("certificate.issue", "queued")
    metrics.observe_request("GET", "/orders", 200, 0.02)
"""


def test_counts_of_ended_processes_are_kept_in_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    for count in (2, 3):
        subprocess.run([sys.executable, "-c", _COUNT, str(folder), str(count)], check=True, env=os.environ | {})
    fold_dead_processes(folder)
    assert len(list(folder.glob("*.db"))) == 2  # counters and histograms
    fold_dead_processes(folder)
    reader = ProcessMetrics()
    reader._folder = folder
    samples = {
        sample.name: sample.value
        for metric in reader.collect()
        for sample in metric.samples
        if "le" not in sample.labels
    }
    assert samples["certcourier_events_total"] == 5
    assert samples["certcourier_http_request_duration_seconds_count"] == 5
    assert samples["certcourier_http_request_duration_seconds_sum"] == pytest.approx(0.1)


def test_disk_space_is_reserved_before_the_first_count(tmp_path: Path) -> None:
    """A mapped file that a full disk has no room for would end the process with SIGBUS."""
    subprocess.run([sys.executable, "-c", _COUNT, str(tmp_path), "1"], check=True, env=os.environ | {})
    files = list(tmp_path.glob("*.db"))
    assert len(files) == 2
    for file in files:
        assert file.stat().st_blocks * 512 >= file.stat().st_size >= 2**17


def test_an_unusable_metrics_folder_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    metrics = ProcessMetrics()
    metrics.share(tmp_path / "file" / "metrics")
    metrics.count_event("certificate.issue", "queued")
    assert [s.value for m in metrics.collect() for s in m.samples if s.name == "certcourier_events_total"] == [1]
