"""The handlers that the kinds of jobs name."""

from __future__ import annotations

import inspect

import pytest

from app.jobs.kinds import JobKind
from app.worker.handlers import HANDLERS


@pytest.mark.parametrize("kind", JobKind)
def test_every_kind_names_functions_that_exist(kind: JobKind) -> None:
    handler = HANDLERS[kind]
    assert list(inspect.signature(handler.run).parameters)[:2] == ["services", "claim"]
    if handler.on_death is not None:
        assert list(inspect.signature(handler.on_death).parameters) == ["services", "session", "claim", "error"]


def test_a_kind_is_found_by_its_name() -> None:
    assert JobKind.named("deliver") is JobKind.DELIVER
    assert JobKind.named("of a newer version") is None
