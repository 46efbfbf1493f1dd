"""Webhook events, sent as DNSimple sends them (contract, section 3), with retries and suppression."""

from __future__ import annotations

import copy
import heapq
import json
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from simulator.catalogue import Dice
from simulator.clock import Clock
from simulator.settings import Settings
from simulator.state import Delivery, State, Webhook

log = logging.getLogger("simulator.webhooks")

_USER_AGENT = "DNSimple-Webhook-Notifier/13c7966c2f4a7b0a4d1e5a9f0c3b8d6e7f2a1b0c"
_SENDERS = 16
_REMEMBERED = 1000
_HELD_SECONDS = 2.0
_OVERTAKING_SECONDS = 0.05
SYSTEM = {"id": "system", "entity": "dnsimple", "pretty": "support@dnsimple.com"}


class Sender:
    """Sends every event to every webhook until it is acknowledged with exactly 200."""

    def __init__(self, settings: Settings, state: State, clock: Clock, dice: Dice) -> None:
        self._settings = settings
        self._dice = dice
        self._state = state
        self._clock = clock
        self._due: list[tuple[float, int]] = []
        self._changed = threading.Condition(state.lock)
        self._stopping = False
        self._sent: dict[str, str] = {}
        self._held: list[Delivery] = []
        self._pool = ThreadPoolExecutor(_SENDERS, thread_name_prefix="webhook")
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._session = threading.local()

    def start(self) -> None:
        """Resume deliveries that were outstanding when the simulator stopped."""
        with self._changed:
            for delivery in self._state.deliveries.values():
                heapq.heappush(self._due, (delivery.due, delivery.id))
        self._thread.start()

    def stop(self) -> None:
        """Stop sending; outstanding deliveries stay stored."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def send(self, name: str, data: dict[str, Any], *, actor: dict[str, str] | None = None) -> None:
        """Queue an event for every webhook that is not suppressed."""
        settings = self._settings
        account = {"id": settings.account, "display": settings.email, "identifier": settings.email}
        envelope: dict[str, Any] = {
            "name": name,
            "api_version": "v2",
            "request_identifier": str(uuid.uuid4()),
            "data": data,
            "account": account,
            "actor": actor or SYSTEM,
        }
        if "certificate" in data:
            self._send_by_chance(envelope)
        else:
            self.send_raw(_as_stored(envelope), envelope["request_identifier"], times=settings.deliver_times)

    def _send_by_chance(self, envelope: dict[str, Any]) -> None:
        hits, identifier, body = self._dice.hits, envelope["request_identifier"], _as_stored(envelope)
        sent = [old for old in self._sent.values() if '"certificate":' in old] if hits("event-replayed") else []
        if sent:
            self.send_raw(sent[int(self._dice.number("event-replayed", len(sent) - 1))], None)
        for fault, forge in _FORGERIES.items():
            if hits(fault):
                forged = forge(copy.deepcopy(envelope), self._state) | {"request_identifier": str(uuid.uuid4())}
                self.send_raw(_as_stored(forged), None)
        if hits("event-dropped"):
            self._sent[identifier] = body
            self._state.mishaps[envelope["data"]["certificate"]["domain_id"]] += 1
            return
        delay = self._dice.number("event-delayed", self._settings.event_delay) if hits("event-delayed") else 0.0
        held = hits("event-reordered")
        times = self._settings.deliver_times * (2 if hits("event-doubled") else 1)
        self.send_raw(body, identifier, times=times, delay=max(delay, _HELD_SECONDS if held else 0.0), held=held)

    def send_raw(
        self, body: str, request_identifier: str | None, *, times: int = 1, delay: float = 0.0, held: bool = False
    ) -> None:
        """Queue a body unchanged, in `delay` seconds or, with `held`, right after the next one."""
        with self._changed:
            overtaken, self._held = self._held, []
            if request_identifier:
                self._sent[request_identifier] = body
                for oldest in list(self._sent)[:-_REMEMBERED]:
                    del self._sent[oldest]
            for webhook in self._state.webhooks.values():
                if webhook.suppressed_at is None:
                    for _ in range(times):
                        delivery = Delivery(self._state.new_id("delivery"), webhook.id, body, time.time() + delay)
                        self._enqueue(delivery)
                        if held:
                            self._held.append(delivery)
            for earlier in overtaken:
                earlier.due = min(earlier.due, time.time() + _OVERTAKING_SECONDS)
                self._enqueue(earlier)

    def replay(self, request_identifier: str, times: int) -> bool:
        """Send an event again unchanged. Returns False if it is unknown."""
        body = self._sent.get(request_identifier)
        if body is not None:
            self.send_raw(body, None, times=times)
        return body is not None

    def wait_until_tried(self, settled: Callable[[], bool], seconds: float) -> None:
        """Wait until `settled`, and until every due event has been posted once."""

        def tried() -> bool:
            now = time.time()
            deliveries = self._state.deliveries.values()
            return settled() and all(delivery.attempts or delivery.due > now for delivery in deliveries)

        with self._changed:
            self._changed.wait_for(tried, seconds)

    def _enqueue(self, delivery: Delivery) -> None:
        self._state.save(delivery)
        heapq.heappush(self._due, (delivery.due, delivery.id))
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                now = time.time()
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    continue
                due, number = heapq.heappop(self._due)
                delivery = self._state.deliveries.get(number)
                if delivery is None or delivery.due != due:  # completed or rescheduled in the meantime
                    continue
                webhook = self._state.webhooks.get(delivery.webhook_id)
                if webhook is None or webhook.suppressed_at is not None:
                    self._state.forget(delivery)
                    continue
            self._pool.submit(self._attempt, delivery, webhook)

    def _attempt(self, delivery: Delivery, webhook: Webhook) -> None:
        status = self._post(webhook.url, delivery.body)
        if self._settings.verbose:
            log.info("event to webhook %s: %s", webhook.id, status)
        with self._changed:
            if self._stopping:
                return
            delivery.attempts += 1
            if status == 200:
                webhook.failures = 0
                self._state.forget(delivery)
            else:
                self._failed(delivery, webhook)
            if webhook.id in self._state.webhooks:
                self._state.save(webhook)
            self._changed.notify_all()

    def _failed(self, delivery: Delivery, webhook: Webhook) -> None:
        webhook.failures += 1
        if webhook.failures >= self._settings.suppress_after:
            webhook.suppressed_at = self._clock.now()
        if webhook.suppressed_at is not None or delivery.attempts >= self._settings.webhook_attempts:
            self._state.forget(delivery)
        else:
            delivery.due = time.time() + self._settings.webhook_retry_base * 2.0 ** (delivery.attempts - 1)
            self._enqueue(delivery)

    def _post(self, url: str, body: str) -> int | None:
        session = getattr(self._session, "session", None)
        if session is None:
            session = self._session.session = requests.Session()
            session.trust_env = False
        headers = {
            "User-Agent": _USER_AGENT,
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip",
            "Accept": None,
            "Connection": None,
        }
        try:
            answer = session.post(
                url, data=body.encode(), headers=headers, timeout=self._settings.webhook_timeout, allow_redirects=False
            )
        except requests.RequestException:
            return None
        return int(answer.status_code)


def _unknown(envelope: dict[str, Any], state: State) -> dict[str, Any]:  # noqa: ARG001
    envelope["data"]["certificate"] |= {"id": 900_000_000 + secrets.randbits(24), "domain_id": 900_000_001}
    return envelope


def _other_account(envelope: dict[str, Any], state: State) -> dict[str, Any]:  # noqa: ARG001
    envelope["account"] |= {"id": envelope["account"]["id"] + 1}
    return envelope


def _mixed(envelope: dict[str, Any], state: State) -> dict[str, Any]:
    certificate = envelope["data"]["certificate"]
    others = [number for number in state.domains if number != certificate["domain_id"]]
    certificate["domain_id"] = others[certificate["id"] % len(others)] if others else 900_000_001
    return envelope


_FORGERIES: dict[str, Callable[[dict[str, Any], State], dict[str, Any]]] = {
    "event-forged": _unknown,
    "event-other-account": _other_account,
    "event-mixed": _mixed,
}


def _as_stored(value: Any) -> str:
    """JSON in the order of PostgreSQL's jsonb, by length of key, then bytewise (contract, section 3.1)."""
    return json.dumps(_ordered(value), ensure_ascii=False)


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key.encode()))}
    return [_ordered(item) for item in value] if isinstance(value, list) else value
