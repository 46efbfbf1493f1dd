"""Every kind of job, one row each: what it does, who handles it, how often it runs and what its death means.

Handlers are named rather than imported, so that a use case can enqueue a job without importing the one that handles
it; `app.worker.handlers` resolves the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Self


class Priority(IntEnum):
    """Which of the due jobs is claimed first."""

    INTERACTIVE = 0
    NORMAL = 1
    BACKGROUND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefinition:
    """One row. `handler` and `on_death` are `module:function`.

    `key` is a template that the job's arguments fill: while a job with a key is unfinished, no second one is enqueued.
    A periodic job without arguments has its kind as key. `alert_on_death` is false where an order, a delivery or an
    import fails with the job and reports the failure itself. `instead_of_retry` is what to do where a retry would have
    no effect, since the order or the import has ended.
    """

    summary: str
    handler: str
    on_death: str | None = None
    period_seconds: int | None = None
    priority: Priority = Priority.NORMAL
    max_attempts: int = 20
    key: str | None = None
    alert_on_death: bool = True
    instead_of_retry: str | None = None


class JobKind(StrEnum):
    """The kinds of jobs; `definition` is the rest of a kind's row."""

    definition: JobDefinition

    def __new__(cls, kind: str, definition: JobDefinition) -> Self:
        member = str.__new__(cls, kind)
        member._value_ = kind
        member.definition = definition
        return member

    @classmethod
    def named(cls, name: str) -> JobKind | None:
        """The kind of this name, or None if this version does not know it."""
        return next((kind for kind in cls if kind == name), None)

    def key_for(self, args: Mapping[str, Any]) -> str | None:
        """The default key of a job with these arguments."""
        if self.definition.period_seconds and not args:
            return self.value
        return self.definition.key.format_map(args) if self.definition.key else None

    ADVANCE_ORDER = (
        "advance_order",
        JobDefinition(
            summary="Purchases a certificate and requests its issuance.",
            handler="app.orders.issuance:advance",
            on_death="app.orders.issuance:order_job_died",
            priority=Priority.INTERACTIVE,
            alert_on_death=False,
            instead_of_retry="its order has failed: order again",
        ),
    )
    POLL_ISSUANCE = (
        "poll_issuance",
        JobDefinition(
            summary="Checks with DNSimple whether an order's certificate has been issued.",
            handler="app.orders.polling:poll_issuance",
            on_death="app.orders.polling:polling_job_died",
            key="poll_issuance:{order_id}",
            alert_on_death=False,
            instead_of_retry=(
                "its order has failed: order again, or check `certcourier certificates list` for the certificate"
            ),
        ),
    )
    FETCH_CERTIFICATE = (
        "fetch_certificate",
        JobDefinition(
            summary="Fetches an issued certificate and its private key, verifies and stores them.",
            handler="app.certificates.retrieval:fetch_certificate",
            on_death="app.certificates.retrieval:fetch_job_died",
            key="fetch_certificate:{domain_id}:{certificate_id}",
        ),
    )
    DELIVER = (
        "deliver",
        JobDefinition(
            summary="Delivers a certificate to a destination.",
            handler="app.deliveries.delivery:deliver",
            on_death="app.deliveries.delivery:delivery_job_died",
            max_attempts=56,  # 35 hours on average, as docs/architecture.md states
            key="deliver:{certificate_id}:{destination}",
            alert_on_death=False,
        ),
    )
    HANDLE_EVENT = (
        "handle_event",
        JobDefinition(
            summary="Checks with DNSimple what an event about a known certificate has changed.",
            handler="app.events.handlers:handle_event",
        ),
    )
    CHECK_ENDPOINT = (
        "check_endpoint",
        JobDefinition(
            summary="Checks which certificates an endpoint serves.",
            handler="app.deliveries.endpoint_checks:check_endpoint",
            key="check_endpoint:{endpoint}",
            period_seconds=60,
            priority=Priority.BACKGROUND,
        ),
    )
    EVALUATE_ALERTS = (
        "evaluate_alerts",
        JobDefinition(
            summary="Raises and resolves alerts and enqueues the notifications about them.",
            handler="app.alerts.evaluation:evaluate_alerts",
            period_seconds=60,
            priority=Priority.BACKGROUND,
        ),
    )
    SEND_NOTIFICATION = (
        "send_notification",
        JobDefinition(
            summary="Sends one notification to one of `NOTIFY_URLS`.",
            handler="app.alerts.notifications:send_notification",
        ),
    )
    RENEW_DUE = (
        "renew_due",
        JobDefinition(
            summary="Orders the renewals that are due.",
            handler="app.renewals.renewal:renew_due",
            period_seconds=300,
            priority=Priority.BACKGROUND,
        ),
    )
    REFRESH_ARI = (
        "refresh_ari",
        JobDefinition(
            summary="Refreshes the certification authority's renewal information (ARI).",
            handler="app.renewals.ari:refresh_ari",
            period_seconds=120,
            priority=Priority.BACKGROUND,
        ),
    )
    # With the share of RECONCILE_PERCENT, these two stay below 5 % of DNSimple's 2,400 calls an hour.
    REGISTER_WEBHOOK = (
        "register_webhook",
        JobDefinition(
            summary="Registers the webhook at DNSimple where it is missing or suppressed, and deletes outdated ones.",
            handler="app.events.webhook_registration:register_webhook",
            period_seconds=120,
        ),
    )
    RECONCILE = (
        "reconcile",
        JobDefinition(
            summary="Compares the certificates on record with DNSimple's.",
            handler="app.certificates.reconciliation:reconcile",
            key="reconcile:catch_up",
            period_seconds=300,
            priority=Priority.BACKGROUND,
        ),
    )
    IMPORT_ACCOUNT = (
        "import_account",
        JobDefinition(
            summary="Lists the account's domains for an import.",
            handler="app.certificates.account_import:import_account",
            on_death="app.certificates.account_import:import_job_died",
            key="import_account:{run_id}",
            alert_on_death=False,
            instead_of_retry="its import has ended: start another with `certcourier certificates import`",
        ),
    )
    IMPORT_DOMAIN = (
        "import_domain",
        JobDefinition(
            summary="Imports the certificates of one domain.",
            handler="app.certificates.account_import:import_domain",
            on_death="app.certificates.account_import:import_job_died",
            alert_on_death=False,
            instead_of_retry="its import has ended: import the domain with `certcourier certificates import --domain`",
        ),
    )
    REFETCH_KEY = (
        "refetch_key",
        JobDefinition(
            summary="Fetches a certificate's private key from DNSimple again.",
            handler="app.operations.key_refetch:refetch_key",
            priority=Priority.BACKGROUND,
            key="refetch_key:{certificate_id}",
        ),
    )
    PRUNE = (
        "prune",
        JobDefinition(
            summary="Deletes history older than the retention settings.",
            handler="app.operations.retention:prune",
            period_seconds=3600,
            priority=Priority.BACKGROUND,
        ),
    )


PERIODS = {kind: kind.definition.period_seconds for kind in JobKind if kind.definition.period_seconds is not None}
