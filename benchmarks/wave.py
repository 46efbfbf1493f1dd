"""A wave of renewals through the account's quota, whose hour is compressed."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ingestion import new_database
from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

LIMIT = 2400
WINDOW = 60.0
_FETCHES = ("/download", "/private_key")


@dataclass(frozen=True, slots=True)
class Wave:
    """How the quota was used. `share` covers the windows that were full of work."""

    database: str
    certificates: int
    seconds: float
    calls: int
    refused: int
    windows: int
    share: float


def measure(kind: str, certificates: int) -> Wave:
    """Fetch this number of certificates, then have all of them renewed at once under a small quota."""
    options = {
        "any_domain": True,
        "issue_delay": 0.0,
        "rate_limit": 10**9,
        "rate_window": WINDOW,
        "allow_http_webhooks": True,
    }
    with (
        tempfile.TemporaryDirectory() as name,
        new_database(kind, Path(name)) as url,
        Simulator(token=TOKEN, **options) as simulator,
    ):
        # Reconciliation is left out: its share is fixed, and of an hour that is not compressed.
        stack = Stack(url, Path(name), simulator, reconcile_percent=0)
        try:
            stack.start()
            simulator.wait_for_webhooks(1)
            first = [_purchase(simulator, f"customer{n}.example") for n in range(certificates)]
            _wait_delivered(stack, simulator, certificates)
            simulator.control("POST", "/settings", {"rate_limit": LIMIT})
            threading.Event().wait(WINDOW)  # until the window has ended that began with another limit
            stack.flask("webhooks", "list")  # a call, from whose answer the new one is known
            simulator.reset_calls()
            started = time.monotonic()
            for certificate_id in first:
                simulator.control("POST", f"/renew/{certificate_id}", {})
            _wait_delivered(stack, simulator, 2 * certificates)
            seconds = time.monotonic() - started
        finally:
            stack.kill_all()
        calls = simulator.control("GET", "/calls")
        per_window = _per_window(calls["calls"])[:-1]  # the last one had not enough to do
        worked = sum(per_window) / (LIMIT * len(per_window)) if per_window else 1.0
        return Wave(kind, certificates, seconds, len(calls["calls"]), calls["refused"], len(per_window), worked)


def _purchase(simulator: Simulator, domain: str) -> int:
    certificate_id = simulator.purchase(domain)
    simulator.issue(domain, certificate_id)
    return certificate_id


def _wait_delivered(stack: Stack, simulator: Simulator, certificates: int) -> None:
    def all_there() -> bool:
        folder = stack.folder / "var" / "certificates"
        return (
            sum(1 for _ in folder.glob("*/versions/*")) >= certificates
            and not simulator.state()["outstanding_deliveries"]
        )

    wait_until(all_there, f"{certificates} certificates delivered", 3600)


def _per_window(calls: list[dict[str, object]]) -> list[int]:
    """Calls that fetched something, by window; DNSimple's windows begin with their first call."""
    started, counts = -1e18, list[int]()
    for call in sorted(calls, key=lambda call: float(str(call["at"]))):
        at = float(str(call["at"]))
        if at >= started + WINDOW:
            started = at
            counts.append(0)
        counts[-1] += str(call["path_template"]).endswith(_FETCHES) and call["status"] == 200
    return counts


def report(results: list[Wave]) -> str:
    """A Markdown table."""
    rows = [
        "| wave of renewals | goal | " + " | ".join(result.database for result in results) + " |",
        "|---|---|" + "---|" * len(results),
        _row("certificates renewed at the same time", "", [f"{r.certificates:,}" for r in results]),
        _row("calls per hour, scaled to", "", [f"{LIMIT} in {WINDOW:g} s" for _ in results]),
        _row(
            "share of the quota turned into fetches",
            "at least 98 %",
            [f"{r.share:.1%} in {r.windows} windows" for r in results],
        ),
        _row("calls answered 429", "0", [str(r.refused) for r in results]),
        _row("calls for each renewal", "2", [f"{r.calls / r.certificates:.2f}" for r in results]),
        _row("time to the last delivery, s", "", [f"{r.seconds:.0f}" for r in results]),
    ]
    return "\n".join(rows)


def _row(name: str, goal: str, values: list[str]) -> str:
    return f"| {name} | {goal} | " + " | ".join(values) + " |"
