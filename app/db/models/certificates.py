"""Domains, lineages, certificates and what is known of their renewals."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.clock import db_now
from app.db.models.base import AutoId, Base
from app.db.models.deliveries import Delivery


class Domain(Base):
    """A domain of the DNSimple account whose numeric ID we have learned from an answer of DNSimple."""

    __tablename__ = "domains"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    account_id: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(253), index=True)
    last_checked_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "last_checked_at", "id"),)


class Lineage(Base):
    """Certificates that replace each other: same account, domain and set of names. `name` is its slot everywhere."""

    __tablename__ = "lineages"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    domain: Mapped[str] = mapped_column(String(253))
    names_digest: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=db_now())

    __table_args__ = (UniqueConstraint("account_id", "domain", "names_digest"),)


class Certificate(Base):
    """A certificate by DNSimple's ID. `state` is DNSimple's; the fields of the X.509 are set when it is fetched."""

    __tablename__ = "certificates"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    account_id: Mapped[int] = mapped_column(BigInteger)
    domain_id: Mapped[int | None] = mapped_column(BigInteger)
    domain: Mapped[str] = mapped_column(String(253))
    order_id: Mapped[str | None] = mapped_column(ForeignKey("orders.id"))
    lineage_id: Mapped[int | None] = mapped_column(ForeignKey("lineages.id"))
    state: Mapped[str] = mapped_column(String(40))
    common_name: Mapped[str] = mapped_column(String(255))
    names: Mapped[list[str]]
    auto_renew: Mapped[bool | None]
    serial: Mapped[str | None] = mapped_column(String(40))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    key_algorithm: Mapped[str | None] = mapped_column(String(20))
    not_before: Mapped[datetime | None]
    not_after: Mapped[datetime | None]
    leaf_pem: Mapped[str | None] = mapped_column(Text)
    chain_pem: Mapped[str | None] = mapped_column(Text)
    encrypted_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    fetched_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    updated_at: Mapped[datetime] = mapped_column(default=db_now(), onupdate=db_now())

    lineage: Mapped[Lineage | None] = relationship()
    deliveries: Mapped[list[Delivery]] = relationship(order_by="Delivery.destination", viewonly=True)

    __table_args__ = (
        Index(None, "domain", "id"),
        Index(None, "state", "id"),
        Index(None, "lineage_id", "not_before", "id", "not_after"),
        Index(None, "not_after"),
        Index(None, "fingerprint"),
        # A range of names by their bytes; SQLite compares bytes anyway, and has an index on the domain.
        Index("ix_certificates_search", text('domain COLLATE "C"'), "id").ddl_if(dialect="postgresql"),
    )


class RenewalInfo(Base):
    """What is known of a certificate's renewal beside its own times: the authority's window, and why it failed last.

    `renew_at` is the instant drawn out of a window that is earlier than the usual renewal; null: not due early.
    """

    __tablename__ = "renewal_info"

    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"), primary_key=True, autoincrement=False)
    window_start: Mapped[datetime | None]
    window_end: Mapped[datetime | None]
    renew_at: Mapped[datetime | None] = mapped_column(index=True)
    next_ari_check_at: Mapped[datetime | None] = mapped_column(index=True)
    error: Mapped[str | None] = mapped_column(Text)
    failed_at: Mapped[datetime | None]


class ImportRun(Base):
    """One `certcourier certificates import`. `next_page` of the account's domains; 0: all of them are listed."""

    __tablename__ = "import_runs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    domain: Mapped[str | None] = mapped_column(String(253))
    next_page: Mapped[int] = mapped_column(default=1)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    finished_at: Mapped[datetime | None]


class ImportedDomain(Base):
    """A domain of an import: the IDs of the certificates to fetch; null until they have been listed."""

    __tablename__ = "imported_domains"

    run_id: Mapped[str] = mapped_column(ForeignKey("import_runs.id"), primary_key=True)
    domain: Mapped[str] = mapped_column(String(253), primary_key=True)
    certificate_ids: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
