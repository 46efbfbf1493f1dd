"""What request handlers share: the services, limits, and the slots for requests that wait for DNSimple."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from flask import Flask, current_app
from werkzeug.routing import BaseConverter

from app.auth.rate_limits import RequestLimits
from app.events.ingestion import EventIngestion
from app.identifiers import parse_id
from app.operations.metrics_collectors import MetricsCollector
from app.renewals.forecast import ForecastCache
from app.services import Services
from app.web.read_audit import ReadAudit


@dataclass(frozen=True, slots=True)
class WebContext:
    """`waiting` has fewer slots than the server has threads, so that slow orders cannot block webhooks."""

    services: Services
    ingestion: EventIngestion
    waiting: threading.BoundedSemaphore
    limits: RequestLimits
    reads: ReadAudit
    forecasts: ForecastCache
    metrics: MetricsCollector


class IdConverter(BaseConverter):
    """`<id:...>` in a route. Digits that are no ID become 0, which no record has."""

    regex = r"\d+"

    def to_python(self, value: str) -> int:
        """The ID, or 0."""
        return parse_id(value) or 0


def bind(app: Flask, services: Services) -> None:
    """Attach the services and the converter of IDs to the application, before it has routes."""
    app.url_map.converters["id"] = IdConverter
    slots = max(1, services.settings.web_threads // 2)
    app.extensions["certcourier"] = WebContext(
        services,
        EventIngestion(services),
        threading.BoundedSemaphore(slots),
        RequestLimits(services.database),
        ReadAudit(),
        ForecastCache(services),
        MetricsCollector(services),
    )


def current() -> WebContext:
    """The context of the application that handles this request."""
    context: WebContext = current_app.extensions["certcourier"]
    return context


def services() -> Services:
    """The services of the application that handles this request."""
    return current().services
