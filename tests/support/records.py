"""Rows of lineages, certificates, deliveries and orders, written without DNSimple."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert

from app.db.clock import read_now
from app.db.models import Certificate, Delivery, Domain, Lineage, Order, new_id
from app.services import Services
from tests.support.encrypted_keys import encrypt_key
from tests.support.harness import ACCOUNT
from tests.support.x509 import Authority


def add_lineages(services: Services, count: int, *, age_days: float = 1, days: float = 90, each: int = 1) -> list[int]:
    """`count` lineages `www.customerN.example` with `each` fetched certificates; returns the IDs of the newest.

    They share one leaf and one key: only their rows differ.
    """
    issued = Authority().issue("www.customer.example")
    newest = []
    with services.database.write() as session:
        now = read_now(session)
        lineages, certificates, domains = [], [], []
        for number in range(1, count + 1):
            name = f"customer{number}.example"
            domains.append({"id": number, "account_id": ACCOUNT, "name": name})
            lineages.append(
                {"id": number, "account_id": ACCOUNT, "domain": name, "names_digest": name, "name": f"www.{name}"}
            )
            for generation in range(each):
                certificate_id = number * 10 + generation
                not_before = now - timedelta(days=age_days) - timedelta(days=60 * (each - 1 - generation))
                certificates.append(
                    {
                        "id": certificate_id,
                        "account_id": ACCOUNT,
                        "domain": name,
                        "domain_id": number,
                        "lineage_id": number,
                        "state": "issued",
                        "common_name": f"www.{name}",
                        "names": [f"www.{name}"],
                        "auto_renew": True,
                        "fingerprint": f"{certificate_id:064x}",
                        "not_before": not_before,
                        "not_after": not_before + timedelta(days=days),
                        "leaf_pem": issued.leaf,
                        "chain_pem": issued.chain[0],
                        "encrypted_key": encrypt_key(services.encryptor, certificate_id, issued.key),
                        "fetched_at": not_before,
                    }
                )
            newest.append(number * 10 + each - 1)
        session.execute(insert(Domain), domains)
        session.execute(insert(Lineage), lineages)
        session.execute(insert(Certificate), certificates)
    return newest


def add_deliveries(services: Services, certificate_ids: list[int], destination: str, **values: object) -> None:
    """Add a delivery of each certificate to the destination."""
    with services.database.write() as session:
        session.execute(
            insert(Delivery),
            [{"certificate_id": number, "destination": destination, **values} for number in certificate_ids],
        )


def add_certificate(services: Services, number: int, *, left: timedelta, lifetime: timedelta, lineage: int = 0) -> None:
    """A fetched certificate; `lineage` is its own unless given."""
    end, lineage = datetime.now(UTC) + left, lineage or number
    with services.database.write() as session:
        session.merge(
            Lineage(id=lineage, account_id=ACCOUNT, domain="a.example", names_digest=f"{lineage}", name=f"l{lineage}")
        )
        session.flush()
        values: dict[str, Any] = {"account_id": ACCOUNT, "domain": "a.example", "state": "issued", "names": []}
        session.add(
            Certificate(
                id=number,
                common_name="a",
                lineage_id=lineage,
                not_before=end - lifetime,
                not_after=end,
                fetched_at=end - lifetime,
                **values,
            )
        )


def add_order(services: Services, domain: str, certificate_id: int) -> str:
    order_id = new_id("ord")
    common = {"account_id": 1010, "domain": domain, "common_name": domain, "names": [domain], "auto_renew": True}
    with services.database.write() as session:
        session.add(Certificate(id=certificate_id, state="issued", **common))
        session.add(
            Order(
                id=order_id,
                name="",
                san=[],
                signature_algorithm="ECDSA",
                state="pending",
                certificate_id=certificate_id,
                **common,
            )
        )
    return order_id
