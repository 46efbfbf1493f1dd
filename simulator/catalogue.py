"""Random faults: every kind of fault that can have a rate, and seeded random generators for reproducible runs."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.faults import Fault

type When = Literal["before", "after", "event", "certificate"]

_CERTIFICATES = "/{account}/domains/{domain}/certificates"
_HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center></body></html>"
_SERVER_FAULTS = {
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Time-out",
}
_NONSENSE: tuple[dict[str, str | None], ...] = (
    {"X-RateLimit-Remaining": "-1"},
    {"X-RateLimit-Limit": "many"},
    {"X-RateLimit-Reset": "0"},
    {"X-RateLimit-Remaining": "99999999"},
    {"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0"},
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `when` it can occur, and for API calls its effect; `only` are suffixes of path templates."""

    when: When
    help: str
    make: Callable[[random.Random, float], Fault] | None = None
    only: tuple[str, ...] = ()


def _status(status: int, message: str, when: Literal["before", "after"] = "before") -> Fault:
    return Fault("*", "*", "status", when, status=status, body=json.dumps({"message": message}))


def _server_fault(
    dice: random.Random, form: Literal["json", "html", "empty"], when: Literal["before", "after"]
) -> Fault:
    status, text = dice.choice(list(_SERVER_FAULTS.items()))
    if form == "json":
        return _status(status, text, when)
    body = _HTML.format(f"{status} {text}") if form == "html" else ""
    return Fault("*", "*", "status", when, status=status, body=body, content_type="text/html")


def _stop(_dice: random.Random, now: float) -> Fault:
    fault = _status(429, "quota exceeded")
    fault.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(now) + 3)}
    return fault


def _headers(headers: Mapping[str, str | None]) -> Fault:
    return Fault("*", "*", "headers", "after", headers=dict(headers))


CATALOGUE: dict[str, Kind] = {
    "slow": Kind(
        "before", "answer delayed by 0.5 to 3 seconds",
        lambda dice, _: Fault("*", "*", "none", delay_seconds=dice.uniform(0.5, 3)),
    ),
    "reset-before": Kind("before", "connection reset, call not processed", lambda *_: Fault("*", "*", "reset")),
    "error-json": Kind(
        "before", "500, 502, 503 or 504 with JSON, call not processed",
        lambda dice, _: _server_fault(dice, "json", "before"),
    ),
    "error-html": Kind("before", "the same with HTML", lambda dice, _: _server_fault(dice, "html", "before")),
    "error-empty": Kind("before", "the same, empty body", lambda dice, _: _server_fault(dice, "empty", "before")),
    "unauthorized": Kind("before", "401", lambda *_: _status(401, "Authentication failed")),
    "unpaid": Kind("before", "402", lambda *_: _status(402, "Outstanding balance, please update your payment details")),
    "forbidden": Kind("before", "403", lambda *_: _status(403, "Permission Denied. Required Scope: account:*:write")),
    "plan-limit": Kind(
        "before", "412 to a purchase",
        lambda *_: _status(412, "Let's Encrypt SAN feature is not enabled for the account"), ("/letsencrypt",),
    ),
    "not-issued": Kind(
        "before", "428 to a download or private key of an issued certificate",
        lambda *_: _status(428, "Certificate not issued"), ("/download", "/private_key"),
    ),
    "too-many": Kind("before", "429 with a reset in three seconds", _stop),
    "reset-after": Kind(
        "after", "call processed, then connection reset without an answer", lambda *_: Fault("*", "*", "reset", "after")
    ),
    "error-after": Kind(
        "after", "call processed, but 500, 502, 503 or 504 with HTML",
        lambda dice, _: _server_fault(dice, "html", "after"),
    ),
    "half-body": Kind("after", "call processed, half of the answer sent", lambda *_: Fault("*", "*", "half", "after")),
    "no-quota-headers": Kind(
        "after", "no rate-limit headers",
        lambda *_: _headers(dict.fromkeys(("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"))),
    ),
    "odd-quota-headers": Kind("after", "invalid rate-limit headers", lambda dice, _: _headers(dice.choice(_NONSENSE))),
    "event-doubled": Kind("event", "sent twice"),
    "event-delayed": Kind("event", "sent up to `--event-delay` seconds later"),
    "event-reordered": Kind("event", "sent after the next one, or after two seconds"),
    "event-dropped": Kind("event", "never sent"),
    "event-early": Kind("event", "issued immediately; the event is sent before the issue call is answered"),
    "event-forged": Kind("event", "another event is sent with an unknown certificate and domain"),
    "event-other-account": Kind("event", "another event is sent with another account"),
    "event-mixed": Kind("event", "another event is sent with the certificate and another domain"),
    "event-replayed": Kind("event", "an earlier event is sent again unchanged"),
    "certificate-failed": Kind("certificate", "ends as `failed`"),
    "certificate-rejected": Kind("certificate", "ends as `rejected`"),
    "certificate-cancelled": Kind("certificate", "ends as `cancelled`"),
    "certificate-refunded": Kind("certificate", "ends as `refunded`"),
    "key-removed": Kind("certificate", "issued, but its private key has been removed"),
    "chain-reversed": Kind("certificate", "issued with a chain in reverse order that includes the root"),
    "wrong-key": Kind("certificate", "issued with a private key that does not match"),
}  # fmt: skip


def parse_rates(given: Iterable[tuple[str, object]]) -> dict[str, float]:
    """Validate names of faults and rates from 0 to 1. Raises `ValueError` naming the invalid one."""
    rates = {}
    for name, value in given:
        if name not in CATALOGUE:
            raise ValueError(f"unknown fault {name}; known faults are {', '.join(CATALOGUE)}")
        try:
            rate = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            rate = -1.0
        if not 0 <= rate <= 1:
            raise ValueError(f"the rate of {name} must be a number from 0 to 1, not {value!r}")
        rates[name] = rate
    return rates


def catalogue_table() -> str:
    """The table in docs/simulator.md; a test compares them."""
    rows = ["| Fault | Affects | Effect |", "|---|---|---|"]
    affects = {"before": "a call", "after": "a call", "event": "an event", "certificate": "an issuance"}
    return "\n".join(
        [*rows, *(f"| `{name}` | {affects[kind.when]} | {kind.help} |" for name, kind in CATALOGUE.items())]
    )


class Dice:
    """One random generator per fault, so the same seed and sequence of calls give the same faults."""

    def __init__(self, seed: int, rates: Mapping[str, float]) -> None:
        self.seed = seed
        self.rates = dict(rates)
        self.thrown: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._generators = {name: random.Random(f"{seed} {name}") for name in CATALOGUE}  # noqa: S311, a replay

    def hits(self, name: str) -> bool:
        """Decide whether the fault occurs now."""
        with self._lock:
            rate = self.rates.get(name, 0.0)
            hit = rate > 0 and self._generators[name].random() < rate
            self.thrown[name] += hit
        return hit

    def number(self, name: str, most: float) -> float:
        """A random number from 0 to `most`, from the same generator."""
        with self._lock:
            return self._generators[name].uniform(0, most)

    def call_fault(self, when: Literal["before", "after"], path_template: str, now: float) -> Fault | None:
        """The fault of an API call, if any."""
        for name, kind in CATALOGUE.items():
            applies = kind.when == when and (not kind.only or path_template.endswith(kind.only))
            if applies and kind.make is not None and self.hits(name):
                with self._lock:
                    fault = kind.make(self._generators[name], now)
                fault.name = name
                return fault
        return None
