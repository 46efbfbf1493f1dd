"""Acknowledging webhooks while DNSimple is slow, and while it is not."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.ingestion import EVENTS, new_database
from benchmarks.load import Servers, load, spread
from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator

CONNECTIONS = 16
ROUNDS = 4
SECONDS = 4.0
LATENCIES = (0.0, 1.0)


def measure(kind: str) -> dict[tuple[str, float], list[float]]:
    """p99 in milliseconds by server and DNSimple's latency in seconds. The worker is busy with the events meanwhile."""
    found: defaultdict[tuple[str, float], list[float]] = defaultdict(list)
    options = {"any_domain": True, "issue_delay": 0.0, "rate_limit": 10**9, "allow_http_webhooks": True}
    with (
        tempfile.TemporaryDirectory() as name,
        new_database(kind, Path(name)) as url,
        Simulator(token=TOKEN, **options) as simulator,
    ):
        certificate_id = simulator.purchase("customer.example")
        simulator.issue("customer.example", certificate_id)
        simulator.wait_until_issued("customer.example", certificate_id)
        domain = simulator.domain_id("customer.example")
        servers = Servers(url, Path(name), simulator)
        try:
            servers.start()
            tutorial = servers.start_other("tutorial", "benchmarks.tutorial:app")
            for _ in range(ROUNDS):
                for latency in LATENCIES:
                    simulator.control("POST", "/settings", {"latency": latency})
                    ours = load(servers.url + EVENTS, CONNECTIONS, SECONDS, 0, domain)
                    found["Certcourier", latency].append(ours.p99)
                    theirs = load(tutorial + EVENTS, CONNECTIONS, SECONDS, certificate_id, domain)
                    found["tutorial", latency].append(theirs.p99)
        finally:
            servers.kill_all()
    return dict(found)


def report(results: dict[str, dict[tuple[str, float], list[float]]]) -> str:
    """A Markdown table."""
    rows = [
        f"| webhook p99 in ms, {CONNECTIONS} connections | goal | DNSimple answers in 0 s | 1 s | ratio |",
        "|---|---|---|---|---|",
    ]
    for kind, found in results.items():
        for server, goal in (("Certcourier", "within 2"), ("tutorial", "")):
            fast, slow = (found[server, latency] for latency in LATENCIES)
            ratio = median(slow) / median(fast)
            rows.append(f"| {server}, {kind} | {goal} | {spread(fast)} | {spread(slow)} | {ratio:.1f} |")
    return "\n".join(rows)
