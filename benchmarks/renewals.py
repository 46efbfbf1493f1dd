"""Renewals under load on real nginx, HAProxy and Caddy: failed handshakes, time to served."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from tests.support import databases
from tests.support.harness import TOKEN
from tests.support.servers import Caddy, HAProxy, Nginx, Renewals, renew_under_load
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack

SERVERS: dict[str, type[Nginx | HAProxy | Caddy]] = {"nginx": Nginx, "HAProxy": HAProxy, "Caddy": Caddy}
RENEWALS = 10


def measure(kind: str) -> Renewals:
    """Ten renewals, one after the other, with four clients that reconnect continuously."""
    options = {"any_domain": True, "issue_delay": 0.1, "allow_http_webhooks": True}
    with tempfile.TemporaryDirectory() as name, Simulator(token=TOKEN, **options) as simulator:
        folder = Path(name)
        server = SERVERS[kind](folder)
        file = folder / "destinations.toml"
        file.write_text(server.destinations())
        stack = Stack(databases.new_sqlite_database(folder), folder, simulator, destinations_file=file)
        try:
            return renew_under_load(server, stack, simulator, RENEWALS)
        finally:
            server.stop()
            stack.stop()


def report(results: dict[str, Renewals]) -> str:
    """A Markdown table."""
    rows = [
        f"| {RENEWALS} renewals under load | goal | " + " | ".join(results) + " |",
        "|---|---|" + "---|" * len(results),
        "| successful handshakes | | " + " | ".join(f"{r.handshakes:,}" for r in results.values()) + " |",
        "| failed handshakes | 0 | " + " | ".join(_failures(r) for r in results.values()) + " |",
        "| event to first handshake with the new certificate, s | a few | "
        + " | ".join(_spread(r.event_to_served) for r in results.values())
        + " |",
        "| handshakes with the old one after that | few | "
        + " | ".join(str(r.handshakes_of_old_after_new) for r in results.values())
        + " |",
    ]
    return "\n".join(rows)


def _failures(result: Renewals) -> str:
    kinds = sorted({failure.partition("(")[0].strip() for failure in result.failures})
    return f"{len(result.failures)} ({', '.join(kinds)})" if kinds else "0"


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
