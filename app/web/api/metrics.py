"""GET /metrics: figures of the database and counts of this host's processes, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response, current_app
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from app.operations.metrics_collectors import MetricsCollector
from app.web.auth import requires
from app.web.context import services

blueprint = Blueprint("metrics", __name__)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


@blueprint.get("/metrics")
@requires("read")
def metrics() -> Response:
    """Everything in Prometheus' text format."""
    collector: MetricsCollector = current_app.extensions.setdefault("certcourier-figures", MetricsCollector(services()))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*collector.collect(), *services().metrics.collect()]))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)
