"""Which use case does which kind of job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.alerts.evaluation import alarms, notify
from app.certificates.account_import import import_died, import_domain, list_import
from app.certificates.reconciliation import reconcile
from app.certificates.retrieval import install, installation_died
from app.deliveries.delivery import deliver, delivery_died
from app.deliveries.endpoint_checks import prove
from app.events.handlers import heed
from app.events.webhook_registration import register_webhook
from app.jobs.queue import Claim
from app.operations.key_refetch import refetch
from app.operations.retention import prune
from app.orders.issuance import advance, order_died
from app.orders.polling import watch, watch_died
from app.renewals.ari import ask_authority
from app.renewals.renewal import renew
from app.services import Services


def _nothing(services: Services, session: Session, claim: Claim, error: str) -> None:
    """A job whose death concerns nobody but the operator, who sees it among the dead."""


@dataclass(frozen=True, slots=True)
class Handler:
    """`run` does the job and ends it; `died` records in the job's last transaction that it was given up."""

    run: Callable[[Services, Claim], None]
    died: Callable[[Services, Session, Claim, str], None] = _nothing


HANDLERS = {
    "order": Handler(advance, order_died),
    "watch": Handler(watch, watch_died),
    "install": Handler(install, installation_died),
    "deliver": Handler(deliver, delivery_died),
    "register_webhook": Handler(register_webhook),
    "reconcile": Handler(reconcile),
    "prune": Handler(prune),
    "refetch": Handler(refetch),
    "prove": Handler(prove),
    "alarms": Handler(alarms),
    "notify": Handler(notify),
    "heed": Handler(heed),
    "import": Handler(list_import, import_died),
    "import_domain": Handler(import_domain, import_died),
    "renew": Handler(renew),
    "ask_authority": Handler(ask_authority),
}
