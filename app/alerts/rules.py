"""Every condition that means "something is wrong": one row for each kind of alert.

The dashboard, `GET /alerts`, `certcourier alerts list`, `certcourier doctor`, `/readyz`, the metrics and the
notifications read the result of these rules; none of them decides anything itself. To add an alert, add its condition
and a row here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.alerts import certificate_conditions, service_conditions
from app.alerts.alert import ActiveAlert, Rule, RuleContext, Severity
from app.certificates.lifetime import renewal_times
from app.db.clock import read_now
from app.db.models import Certificate
from app.jobs.queue import ACCOUNT_BLOCKED_INTERVAL
from app.services import Services

_CRITICAL, _WARNING = Severity.CRITICAL, Severity.WARNING


def _days_before_expiry(lifetime_days: int) -> tuple[str, str]:
    """When the renewal of a certificate with this lifetime is overdue, and when that is critical."""
    start = datetime.fromtimestamp(0, UTC)
    end = start + timedelta(days=lifetime_days)
    times = renewal_times(start, end)
    overdue, critical = ((end - at) / timedelta(days=1) for at in (times.overdue_at, times.critical_at))
    return f"{overdue:g}", f"{critical:g}"


_LONG, _SHORT = _days_before_expiry(90), _days_before_expiry(6)

RULES: dict[str, Rule] = {
    rule.kind: rule
    for rule in (
        Rule(
            "issuance_failed", "orders", _CRITICAL, "An order failed", many="{} orders failed",
            when="An order failed within the last {threshold} and has not been ordered again. Excludes errors "
            "that were returned to the client (unknown domain, plan limit, refused).",
            threshold=certificate_conditions.FAILED_ORDERS_SHOWN,
            find=certificate_conditions.failed_orders, by_domain=True,
        ),
        Rule(
            "delivery_failing", "deliveries", _WARNING,
            "A delivery is failing or failed permanently", many="{} deliveries are failing or failed permanently",
            when="A delivery has been failing for `ALERT_DELIVERY_SECONDS`; critical once it has failed permanently. "
            "Excludes those in whose place a newer certificate has been delivered.",
            find=certificate_conditions.failing_deliveries, by_domain=True,
        ),
        Rule(
            "destination_suspended", "destinations", _WARNING,
            "A destination is suspended", many="{} destinations are suspended",
            when="The receiver answered 410 Gone, so deliveries are suspended until the operator resumes them.",
            find=certificate_conditions.suspended_destinations,
        ),
        Rule(
            "renewal_overdue", "certificates", _WARNING, "A renewal is overdue", many="{} renewals are overdue",
            when=f"A certificate in use has not been renewed. Warning: {_LONG[0]} days before a 90-day certificate "
            f"expires, {_SHORT[0]} days before a 6-day one. Critical: {_LONG[1]} and {_SHORT[1]} days before.",
            find=certificate_conditions.overdue_renewals, by_domain=True,
        ),
        Rule(
            "renewal_off", "certificates", _WARNING,
            "A certificate will expire: auto-renewal is off", many="{} certificates will expire: auto-renewal is off",
            when="The same threshold as `renewal_overdue`, for a certificate that is deliberately not renewed: its "
            "auto-renewal is off and `RENEWAL_POLICY` is `never`.",
            find=certificate_conditions.renewals_off, by_domain=True,
        ),
        Rule(
            "endpoint_stale", "endpoints", _CRITICAL,
            "An endpoint serves the wrong certificate", many="{} endpoints serve the wrong certificate",
            when="An endpoint still serves another certificate after its grace period.",
            find=certificate_conditions.stale_endpoints, by_domain=True,
        ),
        Rule(
            "endpoint_unreachable", "endpoints", _CRITICAL,
            "An endpoint cannot be reached", many="{} endpoints cannot be reached",
            when="An endpoint has not completed a TLS handshake since the end of its grace period.",
            find=certificate_conditions.unreachable_endpoints, by_domain=True,
        ),
        Rule(
            "webhook_lost", "webhook", _WARNING, "The webhook was suppressed or missing",
            when="DNSimple had suppressed or deleted the webhook within the last {threshold}. It has been registered "
            "again, and missed certificates are being searched for.",
            threshold=service_conditions.WEBHOOK_LOSS_SHOWN,
            find=service_conditions.lost_webhook,
        ),
        Rule(
            "webhook_unchecked", "webhook", _WARNING, "The webhook cannot be checked",
            when="The registration of the webhook has not been verified for {threshold}.",
            threshold=service_conditions.WEBHOOK_CHECK_AGE,
            find=service_conditions.unchecked_webhook,
        ),
        Rule(
            "quota_low", "quota", _WARNING, "DNSimple's API quota is nearly used up",
            when="At most `ALERT_QUOTA_PERCENT` of the hour's API calls are left with more than a quarter of the hour "
            "to go. Resolves after {settles} above the threshold.",
            find=service_conditions.low_quota, settles=timedelta(hours=2),
        ),
        Rule(
            "calls_paused", "quota", _WARNING, "Calls to DNSimple are paused",
            when="DNSimple answered 429, so all calls are paused. Resolves after {settles} without a pause.",
            find=service_conditions.paused_calls, settles=timedelta(minutes=15),
        ),
        Rule(
            "token_rejected", "quota", _CRITICAL, "DNSimple rejects the API token",
            when="DNSimple rejects the API token with 401.",
            find=service_conditions.rejected_token,
        ),
        Rule(
            "account_blocked", "quota", _CRITICAL, "DNSimple refuses calls for this account",
            when="DNSimple answered a job's call with 402 (payment required) or 403 (permission missing). The job "
            "waits and repeats the call every {threshold}.",
            threshold=ACCOUNT_BLOCKED_INTERVAL,
            find=service_conditions.blocked_account,
        ),
        Rule(
            "job_failed", "jobs", _CRITICAL, "A job failed permanently", many="{} jobs failed permanently",
            when="A job has failed permanently. Excludes jobs whose order, delivery or import reports it.",
            find=service_conditions.failed_jobs,
        ),
        Rule(
            "jobs_late", "jobs", _WARNING, "Jobs are late", many="{} kinds of jobs are late",
            when="Jobs have been due for {threshold} and have not been started.",
            threshold=service_conditions.JOB_LATENESS,
            find=service_conditions.late_jobs,
        ),
        Rule(
            "worker_silent", "workers", _WARNING, "A worker is silent", many="{} workers are silent",
            when="A worker sent no heartbeat for {threshold} and was neither stopped nor replaced, while others run.",
            threshold=service_conditions.WORKER_SILENCE,
            find=service_conditions.silent_workers,
        ),
        Rule(
            "no_worker", "workers", _CRITICAL, "No worker is running",
            when="No worker sent a heartbeat for {threshold}. Until one does, `/readyz` answers 503.",
            threshold=service_conditions.WORKER_SILENCE,
            find=service_conditions.no_worker, blocks_readiness=True,
        ),
    )
}  # fmt: skip


def rule_context(services: Services, session: Session, domains: tuple[str, ...] | None = None) -> RuleContext:
    """What rules are evaluated with, at the database's present time."""
    return RuleContext(services, session, read_now(session), domains)


def evaluate_rules(context: RuleContext, *, area: str | None = None, limit: int | None = None) -> list[ActiveAlert]:
    """All conditions that are true now, of one area or of all; at most `limit` for each rule."""
    rules = [rule for rule in RULES.values() if area in {None, rule.area}]
    permitted = [rule for rule in rules if context.domains is None or rule.by_domain]
    return [alert for rule in permitted for alert in rule.evaluate(context, limit)]


def renewal_severities(
    services: Services, session: Session, certificates: Iterable[Certificate]
) -> dict[int, Severity]:
    """How severe it is that a certificate was not renewed, by its ID; those that are renewed in time are left out."""
    ids = [certificate.id for certificate in certificates]
    found = evaluate_rules(replace(rule_context(services, session), certificate_ids=ids), area="certificates")
    return {alert.certificate_id: alert.severity for alert in found if alert.certificate_id is not None}
