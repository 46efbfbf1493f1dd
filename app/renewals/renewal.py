"""When a certificate has to be renewed, and renewing it where DNSimple does not.

Lifetimes are shrinking (90, 64, 45 and 6 days), so every time is a share of the certificate's own lifetime. A renewal
of ours is an order like any other (`app.orders.issuance`), so that it is bought once, watched and told.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import and_, exists, false, func, or_, select, true
from sqlalchemy.orm import Session

from app.audit import record
from app.certificates.lineages import newest_of_lineage, newest_successor
from app.db.clock import db_now, read_now
from app.db.models import Certificate, Order, OrderState, Quota, RenewalInfo, new_id
from app.db.upsert import insert_once
from app.domain_names import digest_names
from app.errors import PermanentError
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim
from app.services import Services
from app.timeline import record_step

# DNSimple renews 30 days before expiry (contract, section 2.4). What it does when that is more than half of the
# lifetime nobody knows yet; half of it is when Let's Encrypt asks for the shortest ones to be renewed.
_RENEWED_BEFORE = timedelta(days=30)
_LONGEST_WAIT = 1 / 2
# Shares of the time between the renewal's day and expiry. DNSimple tries again daily, so a first failure is no news.
_OVERDUE_AFTER = 1 / 4
_CRITICAL_AFTER = 2 / 3
# A renewal of ours that failed is tried again daily for 90 days of lifetime, as DNSimple does; soon if it is pressing.
_AGAIN_AFTER = 1 / 90
_PRESSING_AGAIN = timedelta(hours=1)
# So many renewals may be on their way to DNSimple at a time, as a share of its calls in an hour; each costs about six.
_AT_ONCE = 1 / 10
_BEING_BOUGHT = (OrderState.ACCEPTED, OrderState.PURCHASING, OrderState.PURCHASED, OrderState.REQUESTING)


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """When a successor can be expected, when its absence is a problem, and when it is one for tonight. UTC."""

    expected_at: datetime
    overdue_at: datetime
    critical_at: datetime


def renewal_times(not_before: datetime, not_after: datetime) -> RenewalTimes:
    """The only rule for it. A 90-day certificate: 30, 22.5 and 10 days before expiry; a 6-day one: 3, 2.25 and 1."""
    room = min(_RENEWED_BEFORE, (not_after - not_before) * _LONGEST_WAIT)
    expected_at = not_after - room
    return RenewalTimes(expected_at, expected_at + room * _OVERDUE_AFTER, expected_at + room * _CRITICAL_AFTER)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A newest certificate that may be due, with what is known of its renewal."""

    id: int
    not_before: datetime
    not_after: datetime
    auto_renew: bool | None
    renew_at: datetime | None
    failed_at: datetime | None

    def why_now(self, now: datetime, policy: str) -> str | None:
        """The reason to renew it at this moment, if there is one. Certificates of one day are spread over a while."""
        times, lifetime = renewal_times(self.not_before, self.not_after), self.not_after - self.not_before
        pressing = self.renew_at is not None and self.renew_at <= now
        pause = min(_PRESSING_AGAIN, lifetime * _AGAIN_AFTER) if pressing else lifetime * _AGAIN_AFTER
        if self.failed_at is not None and now < self.failed_at + pause * (0.75 + 0.5 * self._lot):
            return None
        if pressing:
            return "its authority asks for an early renewal"
        if self.auto_renew is False:
            spread = (times.overdue_at - times.expected_at) / 2
            is_due = policy != "never" and now >= times.expected_at + spread * self._lot
            return "DNSimple does not renew it automatically" if is_due else None
        spread = (times.critical_at - times.overdue_at) / 4
        is_due = policy == "overdue" and now >= times.overdue_at + spread * self._lot
        return "DNSimple should have renewed it and has not" if is_due else None

    @property
    def _lot(self) -> float:
        """From 0 to 1, the same each time for the same certificate."""
        return (self.id * 2_654_435_761 % 2**32) / 2**32


def renew_due(services: Services, claim: Claim) -> None:
    """Order the renewals that are due, the most urgent first, never more at once than the quota can bear."""
    with services.database.read() as session, closing(_due(session, services.settings.renewal_policy)) as candidates:
        due = list(islice(candidates, _room(services, session)))
    for certificate_id, why in due:
        with services.queue.checkpoint(claim) as session:
            order_renewal(services, session, session.get_one(Certificate, certificate_id), why)


def order_renewal(services: Services, session: Session, certificate: Certificate, why: str) -> str | None:
    """Put the renewal of a certificate and its job on record in the caller's transaction. None: one is in flight."""
    order_id = new_id("ord")
    in_front = certificate.common_name.removesuffix(certificate.domain).removesuffix(".")
    placed = insert_once(
        session,
        Order,
        id=order_id,
        account_id=certificate.account_id,
        domain=certificate.domain,
        name=in_front,
        common_name=certificate.common_name,
        san=[name for name in certificate.names if name not in {certificate.common_name, certificate.domain}],
        names=certificate.names,
        auto_renew=certificate.auto_renew is not False,
        signature_algorithm="RSA" if (certificate.key_algorithm or "").startswith("RSA") else "ECDSA",
        state=OrderState.ACCEPTED,
        in_flight_key=digest_names([f"renewal in lineage {certificate.lineage_id}"]),
        renews_certificate_id=certificate.id,
    )
    if not placed:
        return None
    record_step(session, "renewal ordered", why, order_id=order_id, certificate_id=certificate.id)
    services.queue.enqueue(session, JobKind.ADVANCE_ORDER, {"order_id": order_id}, priority=Priority.BACKGROUND)
    return order_id


def renew_now(
    services: Services, session: Session, certificate_id: int, *, actor: str, requested_by: str
) -> str | None:
    """Order a renewal that somebody wants, in the caller's transaction; the order's ID, or None: one is in flight.

    Raises `PermanentError` if the certificate is not installed here or has been replaced.
    """
    certificate = session.get(Certificate, certificate_id)
    if certificate is None or certificate.fetched_at is None:
        raise PermanentError(f"no certificate with the ID {certificate_id} is installed; see `flask certificates list`")
    newer = newest_successor(session, certificate)
    if newer is not None:
        raise PermanentError(f"certificate {certificate_id} has been replaced by {newer.id} already")
    order_id = order_renewal(services, session, certificate, f"wished by {requested_by}")
    if order_id is not None:
        detail = {"order_id": order_id}
        record(session, actor=actor, action="renewal.ordered", subject=str(certificate_id), detail=detail)
    return order_id


def record_renewal_failure(session: Session, certificate_id: int, problem: str | None) -> None:
    """Why the renewal of this certificate does not get on, for whoever sees that it is overdue."""
    insert_once(session, RenewalInfo, certificate_id=certificate_id)
    note = session.get_one(RenewalInfo, certificate_id, with_for_update=True)
    note.problem, note.problem_at = problem, db_now() if problem else None


def renewal_failure(session: Session, certificate_id: int) -> str | None:
    """What was noted last."""
    return session.scalar(select(RenewalInfo.problem).where(RenewalInfo.certificate_id == certificate_id))


def _due(session: Session, policy: str) -> Generator[tuple[int, str]]:
    now = read_now(session)
    with session.execute(_candidates(now, policy).execution_options(yield_per=1000)) as rows:
        for row in rows:
            why = _Candidate(*row).why_now(now, policy)
            if why is not None:
                yield row[0], why


def _candidates(now: datetime, policy: str) -> Any:
    by_policy = {"never": false(), "without_auto_renew": Certificate.auto_renew.is_(False), "overdue": true()}[policy]
    of_this = Order.renews_certificate_id == Certificate.id
    failed_at = select(func.max(Order.updated_at)).where(of_this, Order.state == OrderState.FAILED).scalar_subquery()
    columns = (Certificate.id, Certificate.not_before, Certificate.not_after, Certificate.auto_renew)
    return (
        select(*columns, RenewalInfo.renew_at, failed_at)
        .outerjoin(RenewalInfo, RenewalInfo.certificate_id == Certificate.id)
        .where(
            newest_of_lineage(),
            Certificate.state == "issued",
            Certificate.not_after > now,
            or_(RenewalInfo.renew_at <= now, and_(by_policy, Certificate.not_after <= now + _RENEWED_BEFORE)),
            ~exists().where(of_this, Order.in_flight_key.is_not(None)),
        )
        .order_by(Certificate.not_after)
    )


def _room(services: Services, session: Session) -> int:
    quota = session.get(Quota, services.account_id)
    at_once = max(1, int(quota.call_limit * _AT_ONCE)) if quota else 1
    being_bought = select(func.count()).where(Order.renews_certificate_id.is_not(None), Order.state.in_(_BEING_BOUGHT))
    return max(0, at_once - (session.scalar(being_bought) or 0))
