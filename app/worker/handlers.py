"""Which use case does which kind of job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.alerts.evaluation import alerts, send_notification
from app.certificates.account_import import import_account, import_domain, import_job_died
from app.certificates.reconciliation import reconcile
from app.certificates.retrieval import fetch_certificate, fetch_job_died
from app.deliveries.delivery import deliver, delivery_job_died
from app.deliveries.endpoint_checks import check_endpoint
from app.events.handlers import handle_event
from app.events.webhook_registration import register_webhook
from app.jobs.queue import Claim
from app.operations.key_refetch import refetch_key
from app.operations.retention import prune
from app.orders.issuance import advance, order_job_died
from app.orders.polling import poll_issuance, polling_job_died
from app.renewals.ari import refresh_ari
from app.renewals.renewal import renew_due
from app.services import Services


def _nothing(services: Services, session: Session, claim: Claim, error: str) -> None:
    """A job whose death concerns nobody but the operator, who sees it among the dead."""


@dataclass(frozen=True, slots=True)
class Handler:
    """`run` does the job and ends it; `died` records in the job's last transaction that it was given up."""

    run: Callable[[Services, Claim], None]
    died: Callable[[Services, Session, Claim, str], None] = _nothing


HANDLERS = {
    "advance_order": Handler(advance, order_job_died),
    "poll_issuance": Handler(poll_issuance, polling_job_died),
    "fetch_certificate": Handler(fetch_certificate, fetch_job_died),
    "deliver": Handler(deliver, delivery_job_died),
    "register_webhook": Handler(register_webhook),
    "reconcile": Handler(reconcile),
    "prune": Handler(prune),
    "refetch_key": Handler(refetch_key),
    "check_endpoint": Handler(check_endpoint),
    "evaluate_alerts": Handler(alerts),
    "send_notification": Handler(send_notification),
    "handle_event": Handler(handle_event),
    "import_account": Handler(import_account, import_job_died),
    "import_domain": Handler(import_domain, import_job_died),
    "renew_due": Handler(renew_due),
    "refresh_ari": Handler(refresh_ari),
}
