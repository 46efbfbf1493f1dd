"""The clients during a campaign, and what was acknowledged to them."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import requests
from sqlalchemy import update

from app.db.clock import db_now
from app.db.database import Database
from app.db.models import Job, Quota
from tests.support.harness import ACCOUNT, WEBHOOK_SECRET
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack

_FINAL = {400, 402, 403, 404, 412, 422}


class Clients:
    """Threads that order, post events, have certificates renewed, spend the quota, and expedite jobs."""

    def __init__(
        self, stack: Stack, simulator: Simulator, database: Database, webs: list[str], rng: random.Random
    ) -> None:
        self.accepted: dict[str, str] = {}
        self.refused: dict[str, int] = {}
        self.acknowledged: set[str] = set()
        self.renewed: set[int] = set()
        self.statuses: Counter[int] = Counter()
        self._stack, self._simulator, self._database, self._webs, self._rng = stack, simulator, database, webs, rng
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._errors: list[BaseException] = []
        work: list[tuple[Callable[[], None], float]] = [
            (self._order, 0.4),
            (self._order, 0.4),
            (self._post_event, 0.02),
            (self._renew, 0.3),
            (self._spend, 60.0),
            (self.hurry, 1.0),
        ]
        self._threads = [threading.Thread(target=self._repeat, args=each, name=each[0].__name__) for each in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), f"{thread.name} does not end"
        if self._errors:
            raise self._errors[0]

    def hurry(self) -> None:
        """Make waiting jobs due, and end the pause after a 401: a campaign lasts minutes, not days."""
        with self._database.write() as session:
            waiting = update(Job).where(Job.state == "ready", Job.run_at > db_now(1))
            session.execute(waiting.values(run_at=db_now()))
            session.execute(update(Quota).where(Quota.blocked_token.is_not(None)).values(blocked_until=db_now(-1)))

    def _repeat(self, work: Callable[[], None], pause: float) -> None:
        session = self._local.session = requests.Session()
        session.trust_env = False
        try:
            while not self._ending.wait(self._rng.uniform(0.5, 1.5) * pause):
                work()
        except BaseException as error:  # noqa: BLE001, raised in the main thread
            self._errors.append(error)

    _local = threading.local()

    def _post(self, path: str, document: dict[str, Any], headers: dict[str, str]) -> requests.Response | None:
        """None if there was no response."""
        url = self._stack.url_of(self._rng.choice(self._webs)) + path
        try:
            answer: requests.Response = self._local.session.post(url, json=document, headers=headers, timeout=30)
        except requests.RequestException:
            return None
        with self._lock:
            self.statuses[answer.status_code] += 1
        return answer

    def _order(self) -> None:
        """Order for a new domain; repeat under the same key until there is a final answer."""
        domain = f"c{uuid.uuid4().hex[:12]}.example"
        headers = self._stack.headers() | {"Idempotency-Key": domain}
        while True:
            answer = self._post("/issue_certificate", {"domain": domain}, headers)
            if answer is not None and answer.status_code == 202:
                self.accepted[domain] = answer.json()["data"]["order_id"]
                return
            if answer is not None and answer.status_code in _FINAL:
                self.refused[domain] = answer.status_code
                return
            self._ending.wait(0.2)

    def _post_event(self) -> None:
        identifier = f"filler-{uuid.uuid4()}"
        document = {
            "name": "domain.create",
            "request_identifier": identifier,
            "account": {"id": ACCOUNT},
            "data": {},
        }
        answer = self._post(f"/dnsimple/events/{WEBHOOK_SECRET}", document, {})
        if answer is not None and answer.status_code == 200:
            self.acknowledged.add(identifier)

    def _renew(self) -> None:
        domains = list(self.accepted)
        if not domains:
            return
        certificates = self._simulator.certificates(self._rng.choice(domains))
        issued = [certificate["id"] for certificate in certificates if certificate["state"] == "issued"]
        if issued:
            self.renewed.add(self._simulator.control("POST", f"/renew/{max(issued)}", {})["id"])

    def _spend(self) -> None:
        self._simulator.control("POST", "/spend", {"calls": self._simulator.options["rate_limit"]})
