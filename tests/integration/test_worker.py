"""How a worker starts, and what becomes of a job that it does."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest

from app.certificates.readiness import check_destinations
from app.destinations.base import Bundle, DestinationConfig, Receipt, Version
from app.jobs.queue import Claim
from app.jobs.worker import run_job
from app.services import Services


def test_a_job_that_fails_after_its_lease_was_lost_is_told_as_lost(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(services, Claim(id=4567, kind="no such kind", token="worthless"))
    told = capsys.readouterr().err
    assert "job lost" in told
    assert "job 4567 (no such kind) is no longer ours" in told


@dataclass
class Hanging:
    """A destination on a disk that does not answer."""

    config: ClassVar = DestinationConfig(name="hanging", timeout_seconds=0.05)
    let_go: threading.Event = field(default_factory=threading.Event)

    def deliver(self, bundle: Bundle) -> Receipt:
        raise NotImplementedError

    def current(self, slot: str) -> Version | None:
        raise NotImplementedError

    def check(self) -> None:
        self.let_go.wait()


def test_a_destination_that_hangs_does_not_keep_a_worker_from_starting(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging = Hanging()
    check_destinations(replace(services, destinations={"hanging": hanging, **services.destinations}))
    hanging.let_go.set()
    assert "hanging did not finish within 0.05 seconds" in capsys.readouterr().err
