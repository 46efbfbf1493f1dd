"""Metrics, asked of the code that gives them."""

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
`GET /metrics`, for a token with scope `read`. How to scrape, and what the figures are good for, is told in
[metrics](../metrics.md)."""


def page() -> str:
    """Figures of the database, then counts of a host's processes."""
    head = ("Metric", "Type", "Labels", "Meaning")
    return markdown.page(
        "All metrics",
        _INTRO,
        "## Of the database: the same on every host",
        markdown.table(head, [_row(metric) for metric in _figures()]),
        "## Of one host's processes: to be added up",
        markdown.table(head, list(_counted())),
    )


def _figures() -> list[Metric]:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            _env_file=None,
            data_dir=Path(folder),
            database_url=f"sqlite:///{folder}/reference.db",
            dnsimple_api_token="none",  # noqa: S106, opens nothing
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


def _row(metric: Metric) -> tuple[str, str, str, str]:
    labels: tuple[str, ...] = getattr(metric, "_labelnames", ())
    return _told(metric.name, metric.type, labels, metric.documentation)


def _counted() -> Iterator[tuple[str, str, str, str]]:
    registry: CollectorRegistry = ProcessMetrics().registry
    for collector in registry._collector_to_names:
        if isinstance(collector, (Counter, Histogram)):
            (metric,) = collector.describe()
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield _told(name, metric.type, collector._labelnames, metric.documentation)


def _told(name: str, kind: str, labels: tuple[str, ...], said: str) -> tuple[str, str, str, str]:
    return f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), markdown.described(said, name)
