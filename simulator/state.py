"""Domains, certificates, renewals and webhooks: in memory, written through to a SQLite file if there is one."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from simulator.authority import Authority
from simulator.clock import as_date, as_time

_FIRST_IDS = {
    "domain": 5001,
    "certificate": 101_967,
    "renewal": 65_082,
    "purchase": 700_001,
    "webhook": 1,
    "delivery": 1,
}


@dataclass(slots=True)
class Domain:
    """A domain of the account. It cannot be validated unless it is `delegated` to DNSimple."""

    id: int
    name: str
    created_at: float
    delegated: bool = True

    def document(self, account: int) -> dict[str, Any]:
        """The API document (contract, section 1.1) of a hosted domain that is registered elsewhere."""
        return {
            "id": self.id,
            "account_id": account,
            "registrant_id": None,
            "name": self.name,
            "unicode_name": self.name,
            "state": "hosted",
            "auto_renew": False,
            "private_whois": False,
            "expires_on": None,
            "expires_at": None,
            "created_at": as_time(self.created_at),
            "updated_at": as_time(self.created_at),
        }


@dataclass(slots=True)
class Certificate:
    """A certificate, including what the API returns separately. Times are seconds since 1970."""

    id: int
    domain_id: int
    name: str
    common_name: str
    alternate_names: list[str]
    names: list[str]
    auto_renew: bool
    algorithm: str
    created_at: float
    updated_at: float
    purchase_id: int
    state: str = "new"
    csr: str | None = None
    expires_at: float | None = None
    issue_due: float | None = None
    issued_at: float | None = None
    server: str | None = None
    chain: list[str] = field(default_factory=list)
    private_key: str | None = None
    renewed: bool = False
    renews: int | None = None
    by_hand: bool = False
    retry_at: float = 0.0
    serial: str = ""

    def document(self) -> dict[str, Any]:
        """The document in API and webhook: `csr` and both expiries are null until it is issued."""
        return {
            "id": self.id,
            "domain_id": self.domain_id,
            "contact_id": 3,
            "name": self.name,
            "common_name": self.common_name,
            "years": 1,
            "csr": self.csr,
            "state": self.state,
            "auto_renew": self.auto_renew,
            "alternate_names": self.alternate_names,
            "authority_identifier": "letsencrypt",
            "created_at": as_time(self.created_at),
            "updated_at": as_time(self.updated_at),
            "expires_at": as_time(self.expires_at),
            "expires_on": as_date(self.expires_at),
        }


@dataclass(slots=True)
class Renewal:
    """A renewal that was ordered by a client."""

    id: int
    old_certificate_id: int
    new_certificate_id: int
    auto_renew: bool
    created_at: float
    state: str = "new"


@dataclass(slots=True)
class Webhook:
    """A URL that every event is posted to, and its recent results."""

    id: int
    url: str
    suppressed_at: float | None = None
    failures: int = 0

    def document(self) -> dict[str, Any]:
        """The API document."""
        return {"id": self.id, "url": self.url, "suppressed_at": as_time(self.suppressed_at)}


@dataclass(slots=True)
class Delivery:
    """An outstanding delivery of an event to a webhook; `due` is on the real clock."""

    id: int
    webhook_id: int
    body: str
    due: float
    attempts: int = 0


_KINDS: dict[str, type[Any]] = {
    "domain": Domain,
    "certificate": Certificate,
    "renewal": Renewal,
    "webhook": Webhook,
    "delivery": Delivery,
}


class State:
    """The complete state, under one lock. Change objects inside `with state.lock`, then `save` them."""

    def __init__(self, path: Path | None) -> None:
        self.lock = threading.RLock()
        self.domains: dict[int, Domain] = {}
        self.certificates: dict[int, Certificate] = {}
        self.renewals: dict[int, Renewal] = {}
        self.webhooks: dict[int, Webhook] = {}
        self.deliveries: dict[int, Delivery] = {}
        self.domain_ids: dict[str, int] = {}
        self.mishaps: Counter[int] = Counter()
        self._next: dict[str, int] = dict(_FIRST_IDS)
        self._file = _open(path) if path else None
        self.authority = self._load()

    def new_id(self, kind: str) -> int:
        """The next ID of this kind."""
        number = self._next[kind]
        self._next[kind] = number + 1
        return number

    def save(self, *things: Domain | Certificate | Renewal | Webhook | Delivery) -> None:
        """Store new or changed objects, all or none."""
        for thing in things:
            kind = type(thing).__name__.lower()
            self._table(kind)[thing.id] = thing
            if isinstance(thing, Domain):
                self.domain_ids[thing.name] = thing.id
        if self._file:
            rows = [(type(thing).__name__.lower(), thing.id, json.dumps(asdict(thing))) for thing in things]
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO things VALUES (?, ?, ?)", rows)

    def forget(self, thing: Webhook | Delivery) -> None:
        """Delete an object, if it exists."""
        kind = type(thing).__name__.lower()
        self._table(kind).pop(thing.id, None)
        if self._file:
            with self._file:
                self._file.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, thing.id))

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            if self._file:
                self._file.close()
                self._file = None

    def _table(self, kind: str) -> dict[int, Any]:
        table: dict[int, Any] = getattr(self, "deliveries" if kind == "delivery" else f"{kind}s")
        return table

    def _load(self) -> Authority:
        if not self._file:
            return Authority.create()
        for kind, number, text in self._file.execute("SELECT kind, id, document FROM things ORDER BY id"):
            if kind != "authority":
                thing = _KINDS[kind](**json.loads(text))
                self._table(kind)[number] = thing
                self._next[kind] = max(self._next[kind], number + 1)
        self.domain_ids = {domain.name: domain.id for domain in self.domains.values()}
        found = self._file.execute("SELECT document FROM things WHERE kind = 'authority'").fetchone()
        if found:
            return Authority(**json.loads(found[0]))
        authority = Authority.create()
        with self._file:
            self._file.execute("INSERT INTO things VALUES ('authority', 1, ?)", (json.dumps(asdict(authority)),))
        return authority


def _open(path: Path) -> sqlite3.Connection:
    """Create the file for its owner only: it contains the private keys of the test authority and of all leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS things (kind TEXT, id INTEGER, document TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID"
    )
    return connection
