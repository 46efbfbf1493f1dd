"""Rows as they would be after much has happened: lineages with certificates, without DNSimple."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import insert

from app.db.clock import read_now
from app.db.models import Certificate, Delivery, Domain, Lineage
from app.services import Services
from tests.support.harness import ACCOUNT
from tests.support.x509 import Authority


def add_lineages(services: Services, count: int, *, age_days: float = 1, days: float = 90, each: int = 1) -> list[int]:
    """`count` lineages `www.customerN.example` with `each` installed certificates; returns the IDs of the newest.

    They share one leaf and one key: only what is on record about them differs.
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
                        "encrypted_key": services.encryptor.encrypt(issued.key, certificate_id=certificate_id),
                        "fetched_at": not_before,
                    }
                )
            newest.append(number * 10 + each - 1)
        session.execute(insert(Domain), domains)
        session.execute(insert(Lineage), lineages)
        session.execute(insert(Certificate), certificates)
    return newest


def add_deliveries(services: Services, certificate_ids: list[int], destination: str, **values: object) -> None:
    """A delivery of each to the destination."""
    with services.database.write() as session:
        session.execute(
            insert(Delivery),
            [{"certificate_id": number, "destination": destination, **values} for number in certificate_ids],
        )
