"""A certificate's lifecycle, killed before and after each of its commits, and resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flask.testing import FlaskClient
from sqlalchemy import select

from app import create_app
from app.auth.tokens import create_token
from app.db.database import Database
from app.db.models import ApiToken, Certificate, Delivery, Event, Job
from app.operations.health import claim_installation
from app.services import Services
from config import Settings
from tests.support.harness import WEBHOOK_SECRET, drain, event, let_leases_end, make_settings
from tests.support.simulator_process import Simulator

type When = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """An order, its event, a renewal and its event for one domain."""

    settings: Settings
    simulator_url: str
    domain: str

    def run_until(self, commit: int, when: When, plant: Callable[[], None] = lambda: None) -> bool:
        """Run the lifecycle in a child process that is killed at this commit. False if there are fewer commits.

        `plant` may break the code in the child.
        """
        child = os.fork()
        if child == 0:
            status = 1
            try:
                plant()
                services, client = self._open()
                die_at(services.database, commit, when)
                self._run(services, client)
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in {0, -signal.SIGKILL}, f"the child ended with status {status}"
        return status != 0

    def resume(self) -> list[str]:
        """Resume as clients, DNSimple and the workers would. Returns the violations."""
        services, client = self._open()
        try:
            let_leases_end(services)
            drain(services, ahead=True)
            states = [certificate["state"] for certificate in self._simulator().certificates(self.domain)]
            if len(states) > 1 and "new" in states:
                return ["purchased once"]  # one of them needlessly
            self._run(services, client)
            drain(services, ahead=True)
            return self._violations(services)
        finally:
            services.database.close()

    def _open(self) -> tuple[Services, FlaskClient]:
        app = create_app(self.settings)
        services: Services = app.extensions["certcourier"].services
        claim_installation(services)
        client = app.test_client()
        with services.database.read() as session:
            known = session.scalar(select(ApiToken.id).where(ApiToken.name == self.domain))
        token_file = self.settings.data_dir / f"{self.domain}.token"
        if known is None:
            token_file.write_text(create_token(services.database, self.domain, ("issue", "read"))[1])
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token_file.read_text()}"
        return services, client

    def _simulator(self) -> Simulator:
        """A handle of this process for the running simulator."""
        simulator = Simulator()
        simulator.url = self.simulator_url
        return simulator

    def _run(self, services: Services, client: FlaskClient) -> None:
        simulator = self._simulator()
        if not self._was_acknowledged("order"):
            headers = {"Idempotency-Key": self.domain}
            answer = client.post("/issue_certificate", json={"domain": self.domain}, headers=headers)
            assert answer.status_code == 202, answer.text
            self._acknowledged("order").touch()
        drain(services)
        first = min(simulator.certificates(self.domain), key=_by_id)["id"]
        self._post_event(services, client, simulator, first)
        if len(simulator.certificates(self.domain)) == 1:
            simulator.renew(first)
        self._post_event(services, client, simulator, max(simulator.certificates(self.domain), key=_by_id)["id"])

    def _post_event(self, services: Services, client: FlaskClient, simulator: Simulator, certificate_id: int) -> None:
        """Post the event until it is acknowledged, then run the jobs."""
        simulator.wait_until_issued(self.domain, certificate_id)
        identifier = f"event-{certificate_id}"
        if not self._was_acknowledged(identifier):
            posted = event(certificate_id, simulator.domain_id(self.domain), request_identifier=identifier)
            assert client.post(f"/dnsimple/events/{WEBHOOK_SECRET}", json=posted).status_code == 200
            self._acknowledged(identifier).touch()
        drain(services)

    def _acknowledged(self, what: str) -> Path:
        """A file that exists once the client, or DNSimple, was acknowledged."""
        return self.settings.data_dir / f"{self.domain}.{what}"

    def _was_acknowledged(self, what: str) -> bool:
        return self._acknowledged(what).exists()

    def _violations(self, services: Services) -> list[str]:
        purchased = sorted(certificate["id"] for certificate in self._simulator().certificates(self.domain))
        with services.database.read() as session:
            certificates = session.scalars(select(Certificate).where(Certificate.domain == self.domain)).all()
            deliveries = session.scalars(
                select(Delivery).join(Certificate).where(Certificate.domain == self.domain).order_by(Delivery.id)
            ).all()
            events = session.scalars(select(Event.certificate_id).where(Event.certificate_id.in_(purchased))).all()
            unfinished = session.scalars(select(Job).where(Job.finished_at.is_(None))).all()
        newest = next((one.leaf_pem for one in certificates if purchased and one.id == purchased[-1]), None)
        served = Path(self.settings.data_dir) / "certificates" / f"www.{self.domain}" / "cert.pem"
        checks = {
            "purchased once": len(purchased) == 2,
            "all fetched": sorted(one.id for one in certificates if one.fetched_at) == purchased,
            "one lineage": len({one.lineage_id for one in certificates}) == 1,
            "each delivered once": [one.certificate_id for one in deliveries if one.state == "delivered"] == purchased,
            "each event on record once": sorted(number or 0 for number in events) == purchased,
            "nothing unfinished": not unfinished,
            "the newest is in place": served.exists() and served.read_text() == newest,
        }
        return [name for name, holds in checks.items() if not holds]


def _by_id(certificate: dict[str, Any]) -> int:
    return int(certificate["id"])


def die_at(database: Database, number: int, when: When) -> None:
    """Kill this process before or after its n-th commit from now on."""
    dialect: Any = database.engine.dialect
    commit, left = dialect.do_commit, number

    def do_commit(connection: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(connection)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    dialect.do_commit = do_commit


def chaos_settings(database_url: str, simulator: Simulator, folder: Path) -> Settings:
    return make_settings(database_url, simulator.url, folder / "var", log_level="error", purchase_settle_seconds=0.1)
