"""The tables. DNSimple is the truth about a certificate; these are the truth about what we still owe."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.sql.schema import MetaData

from app.crypto.encryption import sealed_under
from app.db.clock import UTCDateTime, db_now

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing to misread on the phone
AutoId = BigInteger().with_variant(Integer, "sqlite")


def new_id(prefix: str) -> str:
    """An ID that sorts by time: `prefix_` and 26 characters (48 bits of milliseconds, 80 random bits)."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime, list[str]: JSON, dict[str, Any]: JSON}  # noqa: RUF012


class Order(Base):
    """What a client asked for. Committed before the first call to DNSimple.

    `state`: accepted, purchasing (an answer may be lost), purchased, issuing (likewise), requested, issued,
    installed, failed.
    """

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    client_id: Mapped[str | None] = mapped_column(ForeignKey("api_tokens.id"))
    domain: Mapped[str] = mapped_column(String(253))
    name: Mapped[str] = mapped_column(String(253))
    common_name: Mapped[str] = mapped_column(String(253))
    san: Mapped[list[str]]
    names: Mapped[list[str]]
    auto_renew: Mapped[bool]
    signature_algorithm: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = mapped_column(String(20))
    # The digest of what was asked for while the order is in flight, then null: two identical ones cannot both be.
    in_flight_key: Mapped[str | None] = mapped_column(String(64), unique=True)
    certificate_id: Mapped[int | None] = mapped_column(BigInteger)
    # Of a renewal that we make: the certificate to replace, and DNSimple's number of the renewal while it is known.
    renews_certificate_id: Mapped[int | None] = mapped_column(BigInteger)
    renewal_id: Mapped[int | None] = mapped_column(BigInteger)
    purchase_attempted_at: Mapped[datetime | None]
    failure: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    updated_at: Mapped[datetime] = mapped_column(default=db_now(), onupdate=db_now())

    __table_args__ = (
        Index(None, "certificate_id"),
        Index(None, "domain", "id"),
        Index(None, "state", "id"),
        Index(None, "renews_certificate_id"),
    )


class IdempotencyKey(Base):
    """The first answer to a request that carried an Idempotency-Key; null while it is being worked out."""

    __tablename__ = "idempotency_keys"

    client_id: Mapped[str] = mapped_column(ForeignKey("api_tokens.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id"))
    status: Mapped[int | None]
    body: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=db_now(), index=True)


class Domain(Base):
    """A domain of the DNSimple account whose numeric ID we have learned from an answer of DNSimple."""

    __tablename__ = "domains"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    account_id: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(253), index=True)
    looked_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "looked_at", "id"),)


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
    """A certificate by DNSimple's ID. `state` is DNSimple's word; what is in the X.509 is filled in when installed."""

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
    sealed_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    installed_at: Mapped[datetime | None]
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
    )


class RenewalNote(Base):
    """What is known of a certificate's renewal beside its own times: the authority's window, and what went wrong.

    `renew_at` is the instant drawn out of a window that is earlier than the usual renewal; null: nothing is pressing.
    """

    __tablename__ = "renewal_notes"

    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"), primary_key=True, autoincrement=False)
    window_start: Mapped[datetime | None]
    window_end: Mapped[datetime | None]
    renew_at: Mapped[datetime | None] = mapped_column(index=True)
    ask_at: Mapped[datetime | None] = mapped_column(index=True)
    problem: Mapped[str | None] = mapped_column(Text)
    problem_at: Mapped[datetime | None]


class Delivery(Base):
    """One certificate to one destination. `state`: pending, delivered, superseded (a newer one is there), failed.

    `detail` is how it went, or why the last attempt failed; `waits_for`: what keeps it from being tried now.
    """

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"))
    destination: Mapped[str] = mapped_column(String(63))
    state: Mapped[str] = mapped_column(String(20))
    detail: Mapped[str | None] = mapped_column(Text)
    waits_for: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None]
    # The run that began when this certificate was in place, for destinations where one run serves many.
    run_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    updated_at: Mapped[datetime] = mapped_column(default=db_now(), onupdate=db_now())

    __table_args__ = (
        UniqueConstraint("certificate_id", "destination"),
        Index(
            "ix_deliveries_pending",
            "destination",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_deliveries_failing",
            "id",
            sqlite_where=text("state IN ('pending', 'failed') AND detail IS NOT NULL"),
            postgresql_where=text("state IN ('pending', 'failed') AND detail IS NOT NULL"),
        ),
        Index(None, "state"),
    )


class Run(Base):
    """One run at a destination for all deliveries that waited. `state`: running, succeeded, failed, abandoned.

    It is going on for as long as the job that began it is held with the same token.
    """

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    destination: Mapped[str] = mapped_column(String(63))
    # The destination's name while the run is going on, then null: two cannot go on at once.
    key: Mapped[str | None] = mapped_column(String(63), unique=True)
    state: Mapped[str] = mapped_column(String(12))
    detail: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime] = mapped_column(default=db_now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "destination", "started_at"), Index(None, "finished_at"))


class Event(Base):
    """A webhook event, once. Of its body only what we use: bodies can hold other webhooks' secret URLs."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    request_identifier: Mapped[str] = mapped_column(String(128), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    account_id: Mapped[int | None] = mapped_column(BigInteger)
    certificate_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    domain_id: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str] = mapped_column(String(20))
    received_at: Mapped[datetime] = mapped_column(default=db_now(), index=True)


class StoryLine(Base):
    """One step of a certificate's way, written in the transaction that took the step."""

    __tablename__ = "story"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    at: Mapped[datetime] = mapped_column(default=db_now())
    order_id: Mapped[str | None] = mapped_column(String(40), index=True)
    certificate_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    step: Mapped[str] = mapped_column(String(30))
    detail: Mapped[str] = mapped_column(Text)


class Job(Base):
    """Work that we owe. See `app.jobs.queue` for what its columns promise.

    `due_at` is when a ready job may start, and when the lease of a running one ends: either way, from then on it may
    be claimed.
    """

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    args: Mapped[dict[str, Any]]
    key: Mapped[str | None] = mapped_column(String(120), unique=True)
    priority: Mapped[int] = mapped_column(default=1)
    state: Mapped[str] = mapped_column(String(12), default="ready")
    due_at: Mapped[datetime] = mapped_column(default=db_now())
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=20)
    postponed: Mapped[int] = mapped_column(default=0)
    token: Mapped[str | None] = mapped_column(String(32))
    worker_id: Mapped[str | None] = mapped_column(String(40))
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "ix_jobs_claimable",
            "priority",
            "due_at",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index(None, "finished_at"),
        Index(None, "state"),
    )


class Quota(Base):
    """The account's calls to DNSimple in the present window, as all processes together know them."""

    __tablename__ = "quota"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    call_limit: Mapped[int]
    remaining: Mapped[int]
    in_flight: Mapped[int] = mapped_column(default=0)
    unknown_left: Mapped[int]
    window_seconds: Mapped[int]
    reset_at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]
    blocked_reason: Mapped[str | None] = mapped_column(String(100))
    # Whose wrong token stopped the calls: a digest, so that a process with another token goes on.
    blocked_token: Mapped[str | None] = mapped_column(String(16))


class Periodic(Base):
    """The last time slot for which a periodic job was enqueued, by whichever worker came first."""

    __tablename__ = "periodic"

    kind: Mapped[str] = mapped_column(String(40), primary_key=True)
    slot: Mapped[int] = mapped_column(BigInteger)


class Worker(Base):
    """A worker process and when it was last heard from."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(default=db_now())
    heard_at: Mapped[datetime] = mapped_column(default=db_now(), index=True)
    # The IDs of the key-encryption keys that it holds.
    key_ids: Mapped[list[str] | None]


class ApiToken(Base):
    """A client of our API. Only the SHA-256 of its random 256-bit token is kept."""

    __tablename__ = "api_tokens"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    # Patterns of the domains that it may order for and read about; null for all.
    domains: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class DashboardSession(Base):
    """Somebody who signed in to the dashboard. Only the SHA-256 of the session's random 256-bit ID is kept."""

    __tablename__ = "dashboard_sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("api_tokens.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    expires_at: Mapped[datetime] = mapped_column(index=True)


class WebhookSecret(Base):
    """A secret part of the webhook's path. `sealed` is bound to its digest; `current` is true for one row, else null.

    `accepted_until` is set once DNSimple posts to the URL no more; from then on nothing is taken under it.
    """

    __tablename__ = "webhook_secrets"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    current: Mapped[bool | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    accepted_until: Mapped[datetime | None]

    @property
    def key_id(self) -> str:
        """The ID of the key-encryption key that it is sealed under."""
        return sealed_under(self.sealed)


class ImportRun(Base):
    """One `flask certificates import`. `next_page` of the account's domains; 0: all of them are listed."""

    __tablename__ = "import_runs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    domain: Mapped[str | None] = mapped_column(String(253))
    next_page: Mapped[int] = mapped_column(default=1)
    problem: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    finished_at: Mapped[datetime | None]


class ImportedDomain(Base):
    """A domain of an import: which of its certificates are wanted; null until it was looked at."""

    __tablename__ = "imported_domains"

    run_id: Mapped[str] = mapped_column(ForeignKey("import_runs.id"), primary_key=True)
    domain: Mapped[str] = mapped_column(String(253), primary_key=True)
    certificate_ids: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    problem: Mapped[str | None] = mapped_column(Text)


class Fact(Base):
    """What this installation knows about itself: its account, its key-encryption key's ID, its webhook."""

    __tablename__ = "facts"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class DisabledDestination(Base):
    """A destination whose other side wants no more deliveries, until the operator enables it again."""

    __tablename__ = "disabled_destinations"

    destination: Mapped[str] = mapped_column(String(63), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    disabled_at: Mapped[datetime] = mapped_column(default=db_now())


class AuditEntry(Base):
    """Who did what, in an unbroken chain (`app.audit`). Triggers refuse every change and deletion."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(60))
    subject: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class RequestCount(Base):
    """How many requests of somebody have been let through in the present minute, by all processes together."""

    __tablename__ = "request_counts"

    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    minute: Mapped[int] = mapped_column(BigInteger, index=True)
    used: Mapped[int]
    # Since the row was made; for addresses, whose failed logins are counted one by one.
    total: Mapped[int] = mapped_column(BigInteger, default=0)


class EndpointSeen(Base):
    """What an endpoint serves for a lineage, compared with the certificate that was delivered for it.

    `state`: delivered (not proven yet), served, stale (another certificate is served), unreachable. While another is
    served in a time of grace, until `give_up_at`, the state stays as it was.
    """

    __tablename__ = "endpoints_seen"

    lineage_id: Mapped[int] = mapped_column(ForeignKey("lineages.id"), primary_key=True)
    endpoint: Mapped[str] = mapped_column(String(63), primary_key=True)
    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"))
    state: Mapped[str] = mapped_column(String(20))
    since: Mapped[datetime] = mapped_column(default=db_now())
    detail: Mapped[str | None] = mapped_column(Text)
    seen_fingerprint: Mapped[str | None] = mapped_column(String(64))
    checked_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0)
    give_up_at: Mapped[datetime | None]
    next_at: Mapped[datetime] = mapped_column(default=db_now())

    __table_args__ = (Index(None, "endpoint", "next_at"), Index(None, "state"))


class Alarm(Base):
    """A problem, from when it was found until it is over. At most one of a kind and subject is open.

    `gone_at`: not found any more, but perhaps only for a moment. `last_told` and `recovery_told_at`: when a message
    about it was put on its way.
    """

    __tablename__ = "alarms"

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(400))
    since: Mapped[datetime]
    detail: Mapped[str] = mapped_column(Text)
    remedy: Mapped[str] = mapped_column(Text)
    raised_at: Mapped[datetime] = mapped_column(default=db_now())
    last_told: Mapped[datetime | None]
    dismissed_at: Mapped[datetime | None]
    gone_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    recovery_told_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "resolved_at"), Index(None, "kind", "last_told"))
