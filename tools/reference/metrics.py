"""The reference of metrics, read from the collectors themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

from app.db.migrations import upgrade
from app.metrics import ProcessMetrics
from app.operations.metrics_collectors import MetricsCollector
from app.services import build_services
from config import load_settings
from tools.reference import markdown

_INTRO = """\
`GET /metrics` requires a token with the `read` scope. [Metrics](../metrics.md) explains how to scrape and aggregate
them."""
_DATABASE = """\
Computed from the database; every host returns the same values, so aggregate with `max`. Refreshed at most once per
`METRICS_CACHE_SECONDS`."""
_PROCESS = """\
Counted by the web processes and workers of the host that is scraped. Scrape every host and aggregate with `sum`."""


def page() -> str:
    """Metrics of the database, then those of a host's processes."""
    head = ("Metric", "Type", "Labels", "Meaning")
    return markdown.page(
        "Metrics",
        _INTRO,
        "## Database metrics",
        _DATABASE,
        markdown.table(head, [_database_row(metric) for metric in _database_metrics()]),
        "## Process metrics",
        _PROCESS,
        markdown.table(head, list(_process_rows())),
    )


def _database_metrics() -> list[Metric]:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            _env_file=None,
            data_dir=Path(folder),
            database_url=f"sqlite:///{folder}/reference.db",
            dnsimple_api_token="none",  # noqa: S106, not a real token
            dnsimple_account_id=1010,
            dnsimple_base_url="https://api.dnsimple.com",
            public_url="https://certs.example.com",
            destinations_file=None,
        )
        services = build_services(settings)
        upgrade(services.database)
        try:
            return MetricsCollector(services).collect()
        finally:
            services.database.close()


def _database_row(metric: Metric) -> tuple[str, str, str, str]:
    labels: tuple[str, ...] = getattr(metric, "_labelnames", ())
    return _row(metric.name, metric.type, labels, metric.documentation)


def _process_rows() -> Iterator[tuple[str, str, str, str]]:
    registry: CollectorRegistry = ProcessMetrics().registry
    for collector in registry._collector_to_names:
        if isinstance(collector, (Counter, Histogram)):
            (metric,) = collector.describe()
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield _row(name, metric.type, collector._labelnames, metric.documentation)


def _row(name: str, kind: str, labels: tuple[str, ...], text: str) -> tuple[str, str, str, str]:
    return f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), markdown.described(text, name)
