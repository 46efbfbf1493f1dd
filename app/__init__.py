"""Certcourier: from "give this customer domain a certificate" to "the certificate is served, and stays served".

Read the code in this order:

1. this module and `services`: the wiring
2. an order: `web/api/issue`, `orders/placement`, `orders/issuance`, `orders/polling`
3. an event: `web/api/webhook`, `events/ingestion`
4. the certificate: `certificates/retrieval`, `certificates/verification`
5. its deliveries: `deliveries/delivery`, `destinations/base` and one kind, `deliveries/hook_runs`,
   `deliveries/endpoint_checks`
6. what executes all of this: `jobs/kinds`, `jobs/queue`, `worker/worker`, `db/database`, `errors`
7. the way to DNSimple: `dnsimple/adapter`, `dnsimple/transport`, `dnsimple/budget`
8. what repairs and renews: `certificates/reconciliation`, `renewals/renewal`, `events/handlers`
9. what operators see: `alerts/rules`, `operations`, `doctor`, `commands`, `web/dashboard`

Each step commits before the next, so a process can be killed at any instant and another one continues.
"""

from __future__ import annotations

__version__ = "0.1.0"

from typing import NoReturn

from flask import Flask

from app.commands.command_line import CommandLine, register_commands
from app.logs import configure_logs
from app.services import build_services
from app.web import context, dashboard, problem_details, request_log, security_headers
from app.web.api import alerts, certificates, health, issue, metrics, openapi, webhook
from config import Settings, load_settings


def create_app(settings: Settings | None = None) -> Flask:
    """The web application and its commands. Opens no connection, because gunicorn forks after this.

    `settings` are read from the environment unless given. Raises `config.ConfigurationError` or
    `app.errors.PermanentError` with one line per error.
    """
    settings = settings or load_settings()
    configure_logs(settings.log_format, settings.log_level)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # documents keep the order of their fields
    context.bind(app, build_services(settings))
    problem_details.register(app)
    request_log.register(app)
    security_headers.register(app, settings)
    for module in (issue, certificates, webhook, health, openapi, metrics, alerts, dashboard):
        app.register_blueprint(module.blueprint)
    register_commands(app)
    return app


def main(program: str = "certcourier") -> NoReturn:
    """The console script `certcourier`."""
    CommandLine(create_app).main(prog_name=program)


def create_app_for_commands() -> NoReturn:
    """The application that `flask ...` finds (see .flaskenv): hands over to Certcourier's own command line."""
    main("flask")
