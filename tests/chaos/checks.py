"""The guarantees, compared with the state after all work is done."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import inspect, select, text

from app.db.database import Database
from app.db.models import Certificate, Delivery, Event, Job, Order, TimelineEntry
from app.jobs.kinds import PERIODS, JobKind
from tests.chaos.clients import Clients
from tests.chaos.reader import Reader
from tests.support.simulator_process import Simulator

_STOP_GRACE_SECONDS = 1.0
# Periodic jobs lose nothing by dying: the next slot's job does their work.
_MAY_DIE = {JobKind.FETCH_CERTIFICATE, *PERIODS}
# "PRIVATE KEY" in base64, at each of the three places where it may begin.
_ENCODED = (b"UFJJVkFURSBLRV", b"BSSVZBVEUgS0VZ", b"QUklWQVRFIEtFW")


@dataclass
class Evidence:
    """All sources of evidence."""

    folder: Path
    database: Database
    simulator: Simulator
    clients: Clients
    reader: Reader
    # The response of `GET /metrics`.
    metrics: bytes
    # Seconds since the epoch.
    killed_at: list[float]
    ends: dict[str, int] = field(default_factory=dict)

    @cached_property
    def orders(self) -> dict[str, Order]:
        """By domain: each was ordered for a domain of its own."""
        with self.database.read() as session:
            return {order.domain: order for order in session.scalars(select(Order))}

    @cached_property
    def certificates(self) -> dict[int, Certificate]:
        with self.database.read() as session:
            return {certificate.id: certificate for certificate in session.scalars(select(Certificate))}

    @cached_property
    def at_dnsimple(self) -> dict[str, list[dict[str, Any]]]:
        """By domain, oldest first, each with `usable`: it is issued, and its key exists and matches."""
        found = {}
        for domain in self.orders:
            documents = sorted(self.simulator.certificates(domain), key=lambda document: int(document["id"]))
            found[domain] = [document | {"usable": self._is_usable(domain, document)} for document in documents]
        return found

    def _is_usable(self, domain: str, document: dict[str, Any]) -> bool:
        if document["state"] != "issued":
            return False
        path = f"/domains/{domain}/certificates/{document['id']}"
        leaf = x509.load_pem_x509_certificate(self.simulator.api("GET", f"{path}/download")["server"].encode())
        key = self.simulator.optional("GET", f"{path}/private_key")
        return (
            key is not None
            and load_pem_private_key(key["private_key"].encode(), None).public_key() == leaf.public_key()
        )

    def newest_usable(self, domain: str) -> int | None:
        """The ID of the newest usable certificate."""
        return next((int(one["id"]) for one in reversed(self.at_dnsimple[domain]) if one["usable"]), None)

    def counts(self) -> dict[str, int]:
        """How much work was done."""
        purchased = sum(len(documents) for documents in self.at_dnsimple.values())
        return {
            "orders acknowledged": len(self.clients.accepted),
            "orders refused": len(self.clients.refused),
            "events acknowledged": len(self.clients.acknowledged),
            "certificates at DNSimple": purchased,
            "certificates fetched": sum(one.fetched_at is not None for one in self.certificates.values()),
            "calls to DNSimple": len(self.simulator.calls()),
            "reads of published pairs": self.reader.looks,
            "versions published": self.reader.flips,
        }


def find_violations(evidence: Evidence) -> dict[str, list[str]]:
    """For each guarantee that was violated, the evidence."""
    found = {name: [f"{count} times"] for name, count in evidence.reader.violations.items()}
    for name, look in PROMISES.items():
        broken = list(look(evidence))
        if broken:
            found[name] = broken
    return found


def _lost_orders(evidence: Evidence) -> Iterator[str]:
    known = {order.id: order for order in evidence.orders.values()}
    yield from (number for number in evidence.clients.accepted.values() if number not in known)
    yield from (f"{order.id} {order.state}" for order in known.values() if order.state not in {"fetched", "failed"})


def _failed_for_nothing(evidence: Evidence) -> Iterator[str]:
    for domain, order in evidence.orders.items():
        documents = evidence.at_dnsimple[domain]
        if order.state == "failed" and documents and documents[0]["usable"]:
            yield f"{order.id} {order.failure}"


def _purchased_twice(evidence: Evidence) -> Iterator[str]:
    for domain, documents in evidence.at_dnsimple.items():
        purchased = [document["id"] for document in documents if document["id"] not in evidence.clients.renewed]
        was_accepted = domain in evidence.clients.accepted and evidence.orders[domain].state != "failed"
        if len(purchased) > 1 or (was_accepted and not purchased):
            yield f"{domain} {purchased}"


def _not_in_place(evidence: Evidence) -> Iterator[str]:
    for domain, documents in evidence.at_dnsimple.items():
        newest = evidence.newest_usable(domain)
        certificate = evidence.certificates.get(newest or 0)
        served = evidence.folder / "var" / "certificates" / f"www.{domain}" / "cert.pem"
        in_place = certificate and served.exists() and served.read_text() == certificate.leaf_pem
        if newest is not None and not in_place:
            yield f"{domain} {newest} of {[(one['id'], one['state'], one['usable']) for one in documents]}"


def _unusable_fetched(evidence: Evidence) -> Iterator[str]:
    unusable = {one["id"] for documents in evidence.at_dnsimple.values() for one in documents if not one["usable"]}
    yield from (str(number) for number, one in evidence.certificates.items() if one.fetched_at and number in unusable)


def _done_twice(evidence: Evidence) -> Iterator[str]:
    with evidence.database.read() as session:
        recorded = session.execute(select(TimelineEntry.certificate_id, TimelineEntry.step)).all()
        delivered = session.execute(select(Delivery.certificate_id, Delivery.destination)).all()
    steps = Counter((number, step) for number, step in recorded)
    deliveries = Counter((number, name) for number, name in delivered)
    recorded_once = {"purchased", "fetched", "verified"}
    yield from (f"{number} {step}" for (number, step), count in steps.items() if count > 1 and step in recorded_once)
    yield from (f"{number} at {name}" for (number, name), count in deliveries.items() if count > 1)
    for number, certificate in evidence.certificates.items():
        # Once, and again for each older one of its lineage whose delivery may have finished after it.
        older = (one for one, other in evidence.certificates.items() if other.lineage_id == certificate.lineage_id)
        most = 1 + sum(steps[one, "delivered"] for one in older if one < number)
        if steps[number, "delivered"] > most:
            yield f"{number} delivered"


def _lost_events(evidence: Evidence) -> Iterator[str]:
    with evidence.database.read() as session:
        recorded = Counter(session.scalars(select(Event.request_identifier)))
    yield from evidence.clients.acknowledged - recorded.keys()
    yield from (identifier for identifier, count in recorded.items() if count > 1)


def _undelivered(evidence: Evidence) -> Iterator[str]:
    with evidence.database.read() as session:
        unfinished = session.scalars(select(Delivery).where(Delivery.state.not_in(["delivered", "superseded"]))).all()
    yield from (f"{delivery.certificate_id} {delivery.destination} {delivery.state}" for delivery in unfinished)


def _died_for_nothing(evidence: Evidence) -> Iterator[str]:
    with evidence.database.read() as session:
        dead = session.scalars(select(Job).where(Job.state == "dead")).all()
    # A fetch fails permanently after some accelerated hours. Nothing is lost if a newer certificate exists since,
    # or if reconciliation found it again.
    lost = {evidence.newest_usable(domain) for domain in evidence.orders}
    lost -= {one.id for one in evidence.certificates.values() if one.fetched_at}
    for job in dead:
        if job.kind not in _MAY_DIE or job.args.get("certificate_id") in lost - {None}:
            yield f"{job.kind} {job.args}: {job.last_error}"


def _quota_exceeded(evidence: Evidence) -> Iterator[str]:
    """Another program spends the quota, so one call, and those in flight, may exceed it; then all must stop, unless
    the process that received the 429 died before it could record it.
    """
    first = -1e9
    for call in sorted(evidence.simulator.calls(), key=lambda call: float(call["at"])):
        if call["status"] != 429 or call["fault"] == "too-many":
            continue
        died = any(0 <= killed - first <= _STOP_GRACE_SECONDS for killed in evidence.killed_at)
        if died or call["at"] - first > evidence.simulator.options["rate_window"]:
            first = call["at"]
        if call["at"] - first > _STOP_GRACE_SECONDS:
            yield f"{call['method']} {call['path_template']} {call['at'] - first:.1f} seconds later"


def _unexpected_errors(evidence: Evidence) -> Iterator[str]:
    for path in evidence.folder.glob("*.log"):
        for line in path.read_text().splitlines():
            if "job failed unexpectedly" in line or "unexpected error" in line:
                yield f"{path.name}: {line}"
    if evidence.clients.statuses[500]:
        yield f"{evidence.clients.statuses[500]} answers with status 500"


def _keys_in_clear(evidence: Evidence) -> Iterator[str]:
    """In any column of any row, in the metrics, or in any file that a process has written outside of its
    destination: the database, logs, core dumps.
    """
    yield from files_with_keys(evidence.folder, but=evidence.folder / "var" / "certificates")
    yield from tables_with_keys(evidence.database)
    if holds_key(evidence.metrics):
        yield "metrics"


def files_with_keys(folder: Path, *, but: Path) -> Iterator[str]:
    """Names of the files in and below `folder` that hold a private key in clear, except below `but`."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(but) and holds_key(path.read_bytes()):
            yield str(path.relative_to(folder))


def tables_with_keys(database: Database) -> Iterator[str]:
    """Tables that hold a private key in clear, whatever the database and the column."""
    with database.read() as session:
        for table in inspect(session.connection()).get_table_names():
            rows = session.execute(text(f'SELECT * FROM "{table}"'))  # noqa: S608, our own tables
            if any(holds_key(_as_bytes(value)) for row in rows for value in row):
                yield f"table {table}"


def holds_key(found: bytes) -> bool:
    """A PEM, or the same as base64."""
    return b"PRIVATE KEY" in found or any(part in found for part in _ENCODED)


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


def _database_damaged(evidence: Evidence) -> Iterator[str]:
    path = evidence.database.sqlite_path
    if path is not None:
        with closing(sqlite3.connect(path)) as connection:
            yield from (line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok")


def _bad_ends(evidence: Evidence) -> Iterator[str]:
    yield from (f"{name} {status}" for name, status in evidence.ends.items() if status != 0)


PROMISES: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "an acknowledged order was lost or never completed": _lost_orders,
    "an order failed although its certificate is usable": _failed_for_nothing,
    "a certificate was purchased twice or not at all": _purchased_twice,
    "the newest certificate is not delivered": _not_in_place,
    "an unusable certificate was delivered": _unusable_fetched,
    "work was done twice": _done_twice,
    "an acknowledged event is missing or stored twice": _lost_events,
    "a certificate was not delivered": _undelivered,
    "a job failed permanently without a cause": _died_for_nothing,
    "the quota was exceeded": _quota_exceeded,
    "an unexpected error was logged": _unexpected_errors,
    "a private key was stored unencrypted": _keys_in_clear,
    "the database is corrupt": _database_damaged,
    "a process did not stop cleanly": _bad_ends,
}
