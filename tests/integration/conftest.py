"""Services on a real database, against the simulator over HTTP; requests go through Flask's test client."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.auth.tokens import create_token
from app.operations.health import claim_installation
from app.services import Services
from app.web import context
from config import Settings
from tests.support.harness import TOKEN, make_settings, open_app
from tests.support.simulator_process import Simulator

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def simulator_process() -> Iterator[Simulator]:
    """One simulator for all tests: each takes a domain of its own."""
    options = {"any_domain": True, "issue_delay": 0.05, "rate_limit": 1_000_000, "allow_http_webhooks": True}
    with Simulator(token=TOKEN, webhook_attempts=1, unknown_domain=["stranger.example"], **options) as simulator:
        yield simulator


@pytest.fixture
def simulator(simulator_process: Simulator) -> Iterator[Simulator]:
    """The same with nothing counted, and no faults but the usual ones."""
    simulator_process.reset_calls()
    simulator_process.usual_faults()
    yield simulator_process
    simulator_process.clear_faults()


@pytest.fixture
def domain() -> str:
    """A domain that no other test uses."""
    return f"customer{next(_numbers)}.example"


@pytest.fixture
def settings(database_url: str, simulator: Simulator, tmp_path: Path) -> Settings:
    return make_settings(database_url, simulator.url, tmp_path / "var")


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """The application with services of the test's own."""
    app = open_app(settings)
    services: Services = app.extensions["certcourier"].services
    claim_installation(services)
    yield app
    services.database.close()


@pytest.fixture
def services(app: Flask) -> Services:
    services: Services = app.extensions["certcourier"].services
    return services


@pytest.fixture
def extensible_app(services: Services) -> Flask:
    """An application of the test's own with the same services, to which it may add routes."""
    app = create_app(services.settings)
    context.bind(app, services)
    return app


@pytest.fixture
def anonymous(app: Flask) -> FlaskClient:
    """A client without a token."""
    return app.test_client()


@pytest.fixture
def client(app: Flask, services: Services) -> FlaskClient:
    """A client that may issue and read."""
    client = app.test_client()
    _, token = create_token(services.database, "tests", ("issue", "read"))
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return client
