"""GET /metrics: metrics of the database and of this host's processes, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from app.web.auth import requires
from app.web.context import current, services

blueprint = Blueprint("metrics", __name__)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


@blueprint.get("/metrics")
@requires("read")
def metrics() -> Response:
    """All metrics in Prometheus' text format."""
    collector = current().metrics
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*collector.collect(), *services().metrics.collect()]))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)
