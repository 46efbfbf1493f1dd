"""Refreshing ARI: asking certification authorities when they want certificates renewed (RFC 9773).

Their usual windows change nothing, since DNSimple renews in or before them. An earlier window means that the authority
is about to revoke the certificate: we then renew it, even if DNSimple would renew it later.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from app.certificates.lifetime import renewal_times
from app.certificates.lineages import newest_of_lineage
from app.certificates.records import lock_renewal_info
from app.db.clock import db_now, read_now
from app.db.models import Certificate, RenewalInfo
from app.jobs.queue import Claim, Snooze
from app.renewals.ari_client import (
    Authority,
    AuthorityUnavailableError,
    NotOfThisAuthorityError,
    RenewalInfoResponse,
    certificate_identifier,
)
from app.services import Services
from app.timeline import record_step

log = structlog.get_logger("certcourier")

_BATCH = 100  # per run: 18,000 certificates in the six hours after which Let's Encrypt asks clients to check again
_UNKNOWN_INTERVAL_SECONDS = 86_400.0
_UNAVAILABLE_PAUSE_SECONDS = 300.0


def refresh_ari(services: Services, claim: Claim, rng: random.Random | None = None) -> None:
    """Refresh the certificates whose next check is due. An unavailable authority is asked again when it allows."""
    url = services.settings.ari_url
    if url is None:
        return
    rng = rng or random.SystemRandom()
    with services.database.read() as session:
        due = [(certificate.id, certificate.leaf_pem or "") for certificate in session.scalars(_due(session))]
    authority = Authority(url)
    try:
        for certificate_id, leaf_pem in due:
            try:
                response = authority.fetch(certificate_identifier(leaf_pem))
            except NotOfThisAuthorityError:
                response = None
            with services.queue.checkpoint(claim) as session:
                _record(session, certificate_id, response, rng)
    except AuthorityUnavailableError as error:
        pause = _UNAVAILABLE_PAUSE_SECONDS if error.retry_after is None else error.retry_after
        raise Snooze(pause, str(error)) from None
    finally:
        authority.close()


def is_early(
    info: RenewalInfoResponse, before: tuple[datetime, datetime] | None, expected_at: datetime, now: datetime
) -> bool:
    """Whether the certificate will not be renewed in time unless we renew it.

    Before the expected renewal: a window that ends before it. After it, when DNSimple is late: a window that has
    started and differs from the one that the authority gave `before`.
    """
    if now < expected_at:
        return info.end < expected_at
    return before is not None and before != (info.start, info.end) and info.start <= now


def _due(session: Session) -> Select[Certificate]:
    now = read_now(session)
    return (
        select(Certificate)
        .outerjoin(RenewalInfo, RenewalInfo.certificate_id == Certificate.id)
        .where(
            newest_of_lineage(),
            Certificate.not_after > now,
            or_(RenewalInfo.next_ari_check_at.is_(None), RenewalInfo.next_ari_check_at <= now),
        )
        .order_by(RenewalInfo.next_ari_check_at.nulls_first(), Certificate.id)
        .limit(_BATCH)
    )


def _record(session: Session, certificate_id: int, response: RenewalInfoResponse | None, rng: random.Random) -> None:
    certificate = session.get_one(Certificate, certificate_id)
    info = lock_renewal_info(session, certificate_id)
    if response is None:
        info.next_ari_check_at = db_now(_UNKNOWN_INTERVAL_SECONDS)
        return
    now = read_now(session)
    info.next_ari_check_at = now + timedelta(seconds=response.retry_after * rng.uniform(1.0, 1.1))
    before = (info.window_start, info.window_end) if info.window_start and info.window_end else None
    info.window_start, info.window_end = response.start, response.end
    if certificate.not_before is None or certificate.not_after is None:
        return
    expected_at = renewal_times(certificate.not_before, certificate.not_after).expected_at
    if not is_early(response, before, expected_at, now):
        if now < expected_at:
            info.renew_at = None  # the authority has withdrawn the early window
        return
    if before != (response.start, response.end):
        # Section 4.2: an instant at random within the window, at once if it has passed.
        info.renew_at = response.start + (response.end - response.start) * rng.random()
        window = " and ".join(f"{at:%Y-%m-%d %H:%M}" for at in (response.start, response.end))
        why = f": {response.explanation_url[:200]}" if response.explanation_url else ""
        detail = f"the certification authority requests renewal between {window} UTC{why}"
        order_id = certificate.order_id
        record_step(session, "early renewal requested", detail, order_id=order_id, certificate_id=certificate_id)
        log.warning("early renewal requested", certificate_id=certificate_id, explanation_url=response.explanation_url)
