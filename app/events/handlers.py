"""Handling events about a fetched certificate: auto-renewal failed or was switched, or its private key was removed.

An event is only a reason to ask DNSimple, with one call; what is recorded is DNSimple's answer, never the event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from itertools import islice

import structlog
from sqlalchemy.orm import Session

from app.certificates.reconciliation import PAGE, record_remote_certificates
from app.certificates.records import lock_certificate, record_renewal_failure
from app.certificates.retrieval import FetchRequest
from app.db.clock import db_now, read_now
from app.db.models import Certificate, Domain
from app.dnsimple.adapter import DNSimple
from app.dnsimple.budgeted_calls import Purpose
from app.dnsimple.errors import NotFoundError, NotIssuedYetError
from app.dnsimple.models import Certificate as RemoteCertificate
from app.jobs.kinds import JobKind
from app.jobs.queue import Claim, Queue, Snooze
from app.services import Services
from app.timeline import Step, record_event_step, record_step
from config import Settings

log = structlog.get_logger("certcourier")

_AUTO_RENEWAL_FAILED = "certificate.auto_renewal_failed"
_KEY_REMOVED = "certificate.remove_private_key"
HANDLED_EVENTS = {
    _AUTO_RENEWAL_FAILED,
    "certificate.auto_renewal_enable",
    "certificate.auto_renewal_disable",
    _KEY_REMOVED,
}
_FAILURE_DETAIL = (
    "DNSimple's auto-renewal failed; DNSimple retries daily. Check that the domain is delegated only to DNSimple, that "
    "its CAA records allow the certification authority, and that DNSSEC validates"
)
# However many events arrive, a domain is not checked more often.
_MIN_CHECK_INTERVAL = timedelta(seconds=30)


def enqueue_event_handling(queue: Queue, session: Session, events: Iterable[tuple[str, FetchRequest]]) -> None:
    """Enqueue the handling of named events in the caller's transaction; one job per certificate and name at a time."""
    jobs = {
        f"{name}:{about.domain_id}:{about.certificate_id}": asdict(about) | {"event": name} for name, about in events
    }
    queue.enqueue_many(session, JobKind.HANDLE_EVENT, jobs)


def handle_event(services: Services, claim: Claim) -> None:
    """Ask DNSimple what has changed, and record it. An event of a certificate that is not fetched costs no call."""
    with services.database.read() as session:
        certificate = session.get(Certificate, int(claim.args["certificate_id"]))
    if certificate is None or certificate.fetched_at is None or certificate.domain_id != int(claim.args["domain_id"]):
        _ignore(claim, "no such certificate has been fetched")
    elif claim.args["event"] == _KEY_REMOVED:
        _check_private_key(services.settings, services.queue, services.dnsimple, claim, certificate)
    else:
        _check_auto_renewal(services.queue, services.dnsimple, claim, certificate)


def _check_auto_renewal(queue: Queue, dnsimple: DNSimple, claim: Claim, certificate: Certificate) -> None:
    with queue.checkpoint(claim) as session:
        domain = session.get(Domain, certificate.domain_id)
        if domain is not None:
            if domain.last_checked_at and read_now(session) - domain.last_checked_at < _MIN_CHECK_INTERVAL:
                raise Snooze(_MIN_CHECK_INTERVAL.total_seconds(), "the domain was checked a moment ago")
            domain.last_checked_at = db_now()
    try:
        remotes = list(islice(dnsimple.with_purpose(Purpose.REPEAT_CHECK).certificates(certificate.domain), PAGE))
    except NotFoundError as error:
        _ignore(claim, str(error))
        return
    with queue.finishing(claim) as session:
        current = lock_certificate(session, certificate.id)
        auto_renew = current.auto_renew
        record_remote_certificates(queue, session, remotes)
        remote = next((remote for remote in remotes if remote.id == current.id), None)
        if remote is None:
            return
        current.auto_renew = remote.auto_renew
        if auto_renew is not remote.auto_renew:
            _record(session, claim, current, "auto-renewal changed", "on" if remote.auto_renew else "off")
        if claim.args["event"] == _AUTO_RENEWAL_FAILED and not _is_renewed(remote, remotes):
            record_renewal_failure(session, current.id, _FAILURE_DETAIL)
            _record(session, claim, current, "auto-renewal failed", _FAILURE_DETAIL)


def _is_renewed(old: RemoteCertificate, remotes: list[RemoteCertificate]) -> bool:
    names = (old.common_name, frozenset(old.alternate_names))
    return any(
        remote.id > old.id
        and remote.state == "issued"
        and (remote.common_name, frozenset(remote.alternate_names)) == names
        for remote in remotes
    )


def _check_private_key(
    settings: Settings, queue: Queue, dnsimple: DNSimple, claim: Claim, certificate: Certificate
) -> None:
    try:
        dnsimple.with_purpose(Purpose.REPEAT_CHECK).private_key(certificate.domain, certificate.id)
    except NotIssuedYetError as error:
        if "private key not present" not in error.message.lower():
            raise
    except NotFoundError as error:
        _ignore(claim, str(error))
        return
    else:
        _ignore(claim, "DNSimple still has the private key")
        return
    with queue.finishing(claim) as session:
        current = lock_certificate(session, certificate.id)
        detail = "removed at DNSimple; our encrypted copy is kept"
        if not settings.keep_keys_removed_at_dnsimple:
            current.encrypted_key = None
            detail = "removed at DNSimple; our encrypted copy was deleted, so the certificate cannot be delivered again"
        _record(session, claim, current, "private key removed", detail)


def _record(session: Session, claim: Claim, certificate: Certificate, step: Step, detail: str) -> None:
    order_id, certificate_id = certificate.order_id, certificate.id
    identifier = claim.args.get("request_identifier")
    record_event_step(session, identifier, order_id=order_id, certificate_id=certificate_id)
    record_step(session, step, detail, order_id=order_id, certificate_id=certificate_id)


def _ignore(claim: Claim, reason: str) -> None:
    certificate_id, name = claim.args["certificate_id"], claim.args["event"]
    log.warning("event ignored", reason=reason, certificate_id=certificate_id, event_name=name)
