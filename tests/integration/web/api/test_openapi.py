"""Our OpenAPI document against the application: whatever is sent, the answer is one that the document promises.

Requests are generated from the document, right and wrong ones, most with a valid token. `OPENAPI_EXAMPLES=1000` in the
environment looks longer.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.auth.tokens import create_token
from app.db.clock import db_now
from app.db.models import Worker
from app.services import Services
from config import Settings
from tests.support.harness import WEBHOOK_SECRET, event, make_settings
from tests.support.records import add_order
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "12"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
REAL_DOMAIN, REAL_ID = "generated.example", 7


@pytest.fixture
def settings_of_app(database_url: str, simulator: Simulator, tmp_path: Any) -> Settings:
    return make_settings(
        database_url,
        simulator.url,
        tmp_path / "var",
        token_requests_per_minute=10_000_000,
        log_level="error",
    )


@pytest.fixture(name="settings")
def _settings(settings_of_app: Settings) -> Settings:
    return settings_of_app


def requests_of(operation: Any, real_order: str) -> st.SearchStrategy[Any]:
    """Right ones, wrong ones, and right ones about what is really there."""
    known = {"order_id": real_order, "certificate_id": REAL_ID, "secret": WEBHOOK_SECRET}
    named = {parameter.name for parameter in operation.path_parameters}
    kinds = [operation.as_strategy(GenerationMode.POSITIVE)]
    if named or list(operation.query) or operation.body:
        kinds.append(operation.as_strategy(GenerationMode.NEGATIVE))
    if named & set(known):
        real = {name: known[name] for name in named}
        kinds += [operation.as_strategy(mode, path_parameters=real) for mode in GenerationMode]
    if operation.body:
        kinds.append(operation.as_strategy(GenerationMode.POSITIVE).map(about_a_real_domain))
    return st.one_of(kinds)


def about_a_real_domain(case: Any) -> Any:
    if isinstance(case.body, dict):
        case.body |= {"domain": REAL_DOMAIN, "name": "www", "san": []} if "domain" in case.body else event(REAL_ID, 1)
    if "secret" in case.path_parameters:
        case.path_parameters["secret"] = WEBHOOK_SECRET
    return case


def generate(cases: st.SearchStrategy[Any], headers: dict[str, str], answers: Counter[str]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="OPENAPI_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def look(case: Any) -> None:
        answer = case.call_and_validate(headers=headers, checks=CHECKS)
        answers[f"{case.operation.label} {answer.status_code}"] += 1

    look()


@pytest.mark.timeout(3600)
def test_every_response_to_a_generated_request_conforms_to_the_document(
    app: Flask,
    services: Services,
    record_property: Any,
) -> None:
    _, token = create_token(services.database, "generator", ("issue", "read"))
    headers = {"Authorization": f"Bearer {token}"}
    order = add_order(services, REAL_DOMAIN, REAL_ID)
    with services.database.write() as session:  # a worker, or /readyz is right to say 503
        session.add(Worker(id="w", host="h", pid=1, last_heartbeat_at=db_now(86400)))
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, headers=headers)
    answers: Counter[str] = Counter()

    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        generate(requests_of(result.ok(), order), headers, answers)

    record_property("requests", answers.total())
    print(f"\n{answers.total()} generated requests:")
    for answered, count in sorted(answers.items()):
        print(f"  {answered}: {count}")
    statuses = {answered.rpartition(" ")[2] for answered in answers}
    assert {"200", "202", "400", "404"} <= statuses  # else the generator never got far
