"""Which use case does which kind of job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.certificates.alarming import alarms, notify
from app.certificates.asking import ask_authority
from app.certificates.delivering import deliver, delivery_died
from app.certificates.heeding import heed
from app.certificates.importing import import_died, import_domain, list_import
from app.certificates.installing import install, installation_died
from app.certificates.ordering import advance, order_died
from app.certificates.proving import prove
from app.certificates.pruning import prune
from app.certificates.reconciling import reconcile
from app.certificates.refetching import refetch
from app.certificates.registering import register_webhook
from app.certificates.renewing import renew
from app.certificates.watching import watch, watch_died
from app.jobs.queue import Claim
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
