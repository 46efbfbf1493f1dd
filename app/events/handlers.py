"""Events about a certificate that we have: auto-renewal failed or switched, its private key removed.

Each is only a reason to ask DNSimple, a call each; what is noted is DNSimple's answer, never what the event said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from itertools import islice

import structlog
from sqlalchemy.orm import Session

from app.certificates.reconciliation import PAGE, record_remote_certificates
from app.certificates.retrieval import FetchRequest
from app.db.clock import db_now, read_now
from app.db.models import Certificate, Domain
from app.dnsimple.errors import NotFoundError, NotIssuedYetError
from app.dnsimple.models import Certificate as RemoteCertificate
from app.dnsimple.purposes import Purpose
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Snooze
from app.renewals.renewal import record_renewal_failure
from app.services import Services
from app.timeline import Step, record_event_step, record_step

log = structlog.get_logger("certcourier")

_FAILED = "certificate.auto_renewal_failed"
_KEY_REMOVED = "certificate.remove_private_key"
HANDLED_EVENTS = {_FAILED, "certificate.auto_renewal_enable", "certificate.auto_renewal_disable", _KEY_REMOVED}
_WHY_FAILED = (
    "DNSimple's auto-renewal failed: see that the domain is delegated to DNSimple alone, that its CAA records allow "
    "the authority and that its DNSSEC is sound; DNSimple tries again daily"
)
# However many events come, a certificate's domain is not looked at more often.
_NOT_SOONER = timedelta(seconds=30)


def enqueue_event_handling(services: Services, session: Session, events: Iterable[tuple[str, FetchRequest]]) -> None:
    """Enqueue a look for each event, in the caller's transaction; one at a time for a certificate and a name."""
    jobs = {f"{name}:{one.domain_id}:{one.certificate_id}": asdict(one) | {"event": name} for name, one in events}
    services.queue.enqueue_many(session, JobKind.HANDLE_EVENT, jobs)


def handle_event(services: Services, claim: Claim) -> None:
    """Ask DNSimple what is so, and note it. An event of a certificate that we do not have costs no call."""
    with services.database.read() as session:
        certificate = session.get(Certificate, int(claim.args["certificate_id"]))
    if certificate is None or certificate.fetched_at is None or certificate.domain_id != int(claim.args["domain_id"]):
        log.warning("event ignored", reason="certificate not on record", **_about(claim))
        return
    if claim.args["event"] == _KEY_REMOVED:
        _look_for_key(services, claim, certificate)
    else:
        _look_at_renewal(services, claim, certificate)


def _look_at_renewal(services: Services, claim: Claim, certificate: Certificate) -> None:
    _wait_for_turn(services, claim, certificate)
    try:
        remotes = list(islice(services.dnsimple.with_purpose(Purpose.REPEATED).certificates(certificate.domain), PAGE))
    except NotFoundError as error:
        log.warning("event ignored", reason=str(error), **_about(claim))
        return
    with services.queue.finishing(claim) as session:
        ours = session.get_one(Certificate, certificate.id, with_for_update=True)
        before = ours.auto_renew
        record_remote_certificates(services, session, remotes)
        remote = next((remote for remote in remotes if remote.id == ours.id), None)
        if remote is None:
            return
        if before is not remote.auto_renew:
            _tell(session, claim, ours, "auto-renewal changed", "on" if remote.auto_renew else "off")
        ours.auto_renew = remote.auto_renew
        if claim.args["event"] == _FAILED and not _is_renewed(remote, remotes):
            record_renewal_failure(session, ours.id, _WHY_FAILED)
            _tell(session, claim, ours, "auto-renewal failed", _WHY_FAILED)


def _wait_for_turn(services: Services, claim: Claim, certificate: Certificate) -> None:
    with services.queue.checkpoint(claim) as session:
        domain = session.get(Domain, certificate.domain_id)
        if domain is None:
            return
        if domain.last_checked_at is not None and read_now(session) - domain.last_checked_at < _NOT_SOONER:
            raise Snooze(_NOT_SOONER.total_seconds(), "the domain was looked at a moment ago")
        domain.last_checked_at = db_now()


def _is_renewed(old: RemoteCertificate, remotes: list[RemoteCertificate]) -> bool:
    names = (old.common_name, frozenset(old.alternate_names))
    same = (one for one in remotes if (one.common_name, frozenset(one.alternate_names)) == names)
    return any(one.id > old.id and one.state == "issued" for one in same)


def _look_for_key(services: Services, claim: Claim, certificate: Certificate) -> None:
    try:
        services.dnsimple.with_purpose(Purpose.REPEATED).private_key(certificate.domain, certificate.id)
    except NotIssuedYetError as error:
        if "private key not present" not in error.message.lower():
            raise
    except NotFoundError as error:
        log.warning("event ignored", reason=str(error), **_about(claim))
        return
    else:
        log.warning("event ignored", reason="DNSimple still has the private key", **_about(claim))
        return
    with services.queue.finishing(claim) as session:
        ours = session.get_one(Certificate, certificate.id, with_for_update=True)
        if services.settings.keep_keys_removed_at_dnsimple:
            detail = "at DNSimple; our sealed copy is kept"
        else:
            ours.encrypted_key = None
            detail = "at DNSimple, and our sealed copy with it: it cannot be delivered again"
        _tell(session, claim, ours, "private key removed", detail)


def _tell(session: Session, claim: Claim, certificate: Certificate, step: Step, detail: str) -> None:
    order_id = certificate.order_id
    record_event_step(session, claim.args.get("event_id"), order_id=order_id, certificate_id=certificate.id)
    record_step(session, step, detail, order_id=order_id, certificate_id=certificate.id)


def _about(claim: Claim) -> dict[str, object]:
    return {"certificate_id": claim.args["certificate_id"], "event_name": claim.args["event"]}
