"""Asking the certification authority when it wants certificates renewed (ARI, RFC 9773).

Its usual windows change nothing: DNSimple's auto-renewal lies in or before them. A window that is earlier than that
means that the authority is about to revoke, and the certificate is renewed by us, whoever renews it otherwise.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from app.certificates.lineages import newest_of_lineage
from app.db.clock import db_now, read_now
from app.db.models import Certificate, RenewalInfo
from app.db.upsert import insert_once
from app.jobs.queue import Claim, Snooze
from app.renewals.ari_client import (
    Authority,
    AuthorityUnavailableError,
    NotOfThisAuthorityError,
    RenewalInfoResponse,
    certificate_identifier,
)
from app.renewals.renewal import renewal_times
from app.services import Services
from app.timeline import record_step

log = structlog.get_logger("certcourier")

_MOST_AT_ONCE = 100  # a run: 18,000 certificates in the six hours after which Let's Encrypt wants to be asked again
_UNKNOWN_AGAIN_SECONDS = 86_400.0
_SILENT_PAUSE_SECONDS = 300.0


def refresh_ari(services: Services, claim: Claim, rng: random.Random | None = None) -> None:
    """Ask for those whose time has come. An authority that does not answer is left alone for as long as it says."""
    url = services.settings.ari_url
    if url is None:
        return
    chance = rng or random.SystemRandom()
    with services.database.read() as session:
        turn = [(certificate.id, certificate.leaf_pem or "") for certificate in session.scalars(_whose_turn(session))]
    authority = Authority(url)
    try:
        for certificate_id, leaf_pem in turn:
            try:
                info = authority.ask(certificate_identifier(leaf_pem))
            except NotOfThisAuthorityError:
                info = None
            with services.queue.checkpoint(claim) as session:
                _note(session, certificate_id, info, chance)
    except AuthorityUnavailableError as error:
        pause = _SILENT_PAUSE_SECONDS if error.retry_after is None else error.retry_after
        raise Snooze(pause, str(error)) from None
    finally:
        authority.close()


def is_early(
    info: RenewalInfoResponse, before: tuple[datetime, datetime] | None, expected_at: datetime, now: datetime
) -> bool:
    """Whether nobody will renew in time unless we do.

    Before the usual renewal: a window that ends before it. After it, when DNSimple is late: a window that has begun and
    is another one than the authority gave `before`.
    """
    if now < expected_at:
        return info.end < expected_at
    return before is not None and before != (info.start, info.end) and info.start <= now


def _whose_turn(session: Session) -> Select[Certificate]:
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
        .limit(_MOST_AT_ONCE)
    )


def _note(session: Session, certificate_id: int, info: RenewalInfoResponse | None, chance: random.Random) -> None:
    certificate = session.get_one(Certificate, certificate_id)
    insert_once(session, RenewalInfo, certificate_id=certificate_id)
    note = session.get_one(RenewalInfo, certificate_id, with_for_update=True)
    if info is None:
        note.next_ari_check_at = db_now(_UNKNOWN_AGAIN_SECONDS)
        return
    now = read_now(session)
    note.next_ari_check_at = now + timedelta(seconds=info.retry_after * chance.uniform(1.0, 1.1))
    before = (note.window_start, note.window_end) if note.window_start and note.window_end else None
    note.window_start, note.window_end = info.start, info.end
    if certificate.not_before is None or certificate.not_after is None:
        return
    expected_at = renewal_times(certificate.not_before, certificate.not_after).expected_at
    if not is_early(info, before, expected_at, now):
        if now < expected_at:
            note.renew_at = None  # the authority has taken it back
        return
    if before != (info.start, info.end):
        # Section 4.2: an instant at random within the window, at once if it has passed.
        note.renew_at = info.start + (info.end - info.start) * chance.random()
        span = " and ".join(f"{at:%Y-%m-%d %H:%M}" for at in (info.start, info.end))
        why = f": {info.explanation_url[:200]}" if info.explanation_url else ""
        detail = f"its authority wants it renewed between {span} UTC{why}"
        record_step(session, "early renewal", detail, order_id=certificate.order_id, certificate_id=certificate_id)
        log.warning("early renewal", certificate_id=certificate_id, explanation_url=info.explanation_url)
