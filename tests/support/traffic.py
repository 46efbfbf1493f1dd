"""A steady stream of orders during a disruption, and the check that each was completed exactly once."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import requests

from tests.support.harness import WEBHOOK_SECRET
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

DESTINATIONS = ("first", "second")
EVENTS = f"/dnsimple/events/{WEBHOOK_SECRET}"
_PAUSE_SECONDS = 0.25


def make_stack(database_url: str, folder: Path, simulator: Simulator, **destination: object) -> Stack:
    """A stack with short leases and two destinations, which share these fields; nothing is started."""
    file = folder / "destinations.toml"
    fields = "".join(f"{name} = {value}\n" for name, value in destination.items())
    entry = '[[destination]]\nname = "{0}"\nkind = "files"\npath = "{1}"\n' + fields
    file.write_text("".join(entry.format(name, folder / name) for name in DESTINATIONS))
    return Stack(
        database_url,
        folder,
        simulator,
        destinations_file=file,
        job_lease_seconds=2,
        order_wait_seconds=5,
        purchase_settle_seconds=3,
        web_workers=1,
    )


class Traffic:
    """`with Traffic(stack, "web", "second web") as traffic:`; it ends when the last order is accepted.

    Each order is for a domain of its own and has an Idempotency-Key. An order that is not accepted is sent again to the
    next web process, as a client behind a load balancer would.
    """

    def __init__(self, stack: Stack, *webs: str) -> None:
        self.accepted: dict[str, dict[str, Any]] = {}
        self.answers: list[requests.Response] = []
        self._stack = stack
        self._webs = itertools.cycle(webs)
        self._ending = threading.Event()
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"an order is still not accepted: {self.answers[-1:]}"

    @property
    def statuses(self) -> Counter[int]:
        """The number of responses by status; a 503 without Retry-After is counted as -503."""
        return Counter(
            answer.status_code if answer.status_code != 503 or "Retry-After" in answer.headers else -503
            for answer in list(self.answers)
        )

    def wait_for(self, number: int) -> None:
        """Wait until this number of further orders is accepted."""
        enough = len(self.accepted) + number
        wait_until(lambda: len(self.accepted) >= enough, f"{number} more orders accepted")

    def _run(self) -> None:
        for number in itertools.count():
            if self._ending.is_set():
                return
            self._order(f"customer{number}.example", str(uuid.uuid4()))
            self._pause.wait(_PAUSE_SECONDS)

    def _order(self, domain: str, key: str) -> None:
        headers = self._stack.headers() | {"Idempotency-Key": key}
        for web in self._webs:
            try:
                url = f"{self._stack.url_of(web)}/issue_certificate"
                answer = requests.post(url, json={"domain": domain}, headers=headers, timeout=60)
            except requests.ConnectionError:
                self._pause.wait(_PAUSE_SECONDS)
                continue
            self.answers.append(answer)
            if answer.status_code == 202:
                self.accepted[domain] = answer.json()["data"]
                return
            self._pause.wait(_PAUSE_SECONDS)


def check_done_once(
    stack: Stack, simulator: Simulator, orders: dict[str, dict[str, Any]], seconds: float = 100
) -> None:
    """Wait until all orders are delivered; each was purchased, fetched and delivered once."""
    for domain, accepted in orders.items():
        order = wait_until(_delivered(stack, accepted["order_id"]), f"{domain} delivered", seconds)
        assert len(simulator.certificates(domain)) == 1, domain
        steps = Counter(line["step"] for line in order["timeline"])
        assert steps["purchased"] + steps["adopted"] == 1, order["timeline"]
        assert (steps["fetched"], steps["verified"], steps["delivered"]) == (1, 1, len(DESTINATIONS)), order["timeline"]
        assert [delivery["destination"] for delivery in order["deliveries"]] == list(DESTINATIONS)
        for destination in DESTINATIONS:
            (version,) = (stack.folder / destination / f"www.{domain}" / "versions").iterdir()
            assert version.name.endswith(f"-{order['certificate_id']}")


def _delivered(stack: Stack, order_id: str) -> Callable[[], dict[str, Any]]:
    """The order once all its deliveries have succeeded; until then, nothing."""

    def look() -> dict[str, Any]:
        order: dict[str, Any] = stack.get(f"/orders/{order_id}")
        assert order["order_state"] != "failed", order
        done = order["deliveries"] and all(delivery["state"] == "delivered" for delivery in order["deliveries"])
        return order if done else {}

    return look
