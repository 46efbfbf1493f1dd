"""Renewing the certificates that DNSimple does not renew: each renewal is an order like any other (`app.orders`)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import and_, exists, false, func, or_, select, true
from sqlalchemy.orm import Session

from app.audit import SYSTEM
from app.certificates.lifetime import RENEWAL_HORIZON, renewal_retry_interval, renewal_times
from app.certificates.lineages import newest_of_lineage, newest_successor
from app.db.clock import read_now
from app.db.models import Certificate, Order, OrderState, Quota, RenewalInfo
from app.domain_names import OrderNames, digest_names
from app.errors import PermanentError
from app.jobs.queue import Claim, Queue
from app.orders.placement import NewOrder, create_order
from app.services import Services

# How many renewals may be on their way to DNSimple at a time, as a share of its calls per hour; each costs about six.
_CONCURRENT_SHARE = 1 / 10
_BEING_PURCHASED = (OrderState.ACCEPTED, OrderState.PURCHASING, OrderState.PURCHASED, OrderState.REQUESTING)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The newest certificate of a lineage that may be due, with what is known of its renewal."""

    certificate_id: int
    not_before: datetime
    not_after: datetime
    auto_renew: bool | None
    renew_at: datetime | None
    failed_at: datetime | None

    def reason(self, now: datetime, policy: str) -> str | None:
        """Why to renew it at this moment, if at all. Certificates of one day are spread over a while."""
        times = renewal_times(self.not_before, self.not_after)
        urgent = self.renew_at is not None and self.renew_at <= now
        interval = renewal_retry_interval(self.not_before, self.not_after, urgent=urgent)
        if self.failed_at is not None and now < self.failed_at + interval * (0.75 + 0.5 * self._jitter):
            return None
        if urgent:
            return "its certification authority requests an early renewal"
        if self.auto_renew is False:
            spread = (times.overdue_at - times.expected_at) / 2
            is_due = policy != "never" and now >= times.expected_at + spread * self._jitter
            return "auto-renewal at DNSimple is off" if is_due else None
        spread = (times.critical_at - times.overdue_at) / 4
        is_due = policy == "overdue" and now >= times.overdue_at + spread * self._jitter
        return "its renewal by DNSimple is overdue" if is_due else None

    @property
    def _jitter(self) -> float:
        """From 0 to 1, always the same for the same certificate."""
        return (self.certificate_id * 2_654_435_761 % 2**32) / 2**32


def renew_due(services: Services, claim: Claim) -> None:
    """Order the renewals that are due, the most urgent first, no more at once than the quota allows."""
    with services.database.read() as session, closing(_due(session, services.settings.renewal_policy)) as candidates:
        due = list(islice(candidates, _capacity(services.account_id, session)))
    for certificate_id, reason in due:
        with services.queue.checkpoint(claim) as session:
            order_renewal(
                services.queue, services.account_id, session, session.get_one(Certificate, certificate_id), reason
            )


def order_renewal(
    queue: Queue, account_id: int, session: Session, certificate: Certificate, reason: str, *, actor: str = SYSTEM
) -> str | None:
    """Order the renewal of a certificate in the caller's transaction; the order's ID, or None if one is in flight."""
    common_name, domain = certificate.common_name, certificate.domain
    names = OrderNames(
        domain=domain,
        name=common_name.removesuffix(domain).removesuffix("."),
        common_name=common_name,
        san=tuple(name for name in certificate.names if name not in {common_name, domain}),
        names=tuple(certificate.names),
    )
    new = NewOrder(
        names=names,
        auto_renew=certificate.auto_renew is not False,
        signature_algorithm="RSA" if (certificate.key_algorithm or "").startswith("RSA") else "ECDSA",
        in_flight_key=digest_names([f"renewal in lineage {certificate.lineage_id}"]),
        renews=certificate,
        reason=reason,
    )
    placed = create_order(session, queue, account_id, new, actor=actor)
    return placed.order_id if placed.is_new else None


def renew_now(
    queue: Queue, account_id: int, session: Session, certificate_id: int, *, actor: str, requested_by: str
) -> str | None:
    """Order a renewal on request, in the caller's transaction; the order's ID, or None if one is in flight.

    Raises `PermanentError` if the certificate has not been fetched or has been replaced.
    """
    certificate = session.get(Certificate, certificate_id)
    if certificate is None or certificate.fetched_at is None:
        raise PermanentError(f"no fetched certificate has the ID {certificate_id}; see `certcourier certificates list`")
    newer = newest_successor(session, certificate)
    if newer is not None:
        raise PermanentError(f"certificate {certificate_id} has already been replaced by certificate {newer.id}")
    return order_renewal(queue, account_id, session, certificate, f"requested by {requested_by}", actor=actor)


def _due(session: Session, policy: str) -> Generator[tuple[int, str]]:
    now = read_now(session)
    with session.execute(_candidates(now, policy).execution_options(yield_per=1000)) as rows:
        for row in rows:
            candidate = _Candidate(*row)
            reason = candidate.reason(now, policy)
            if reason is not None:
                yield candidate.certificate_id, reason


def _candidates(now: datetime, policy: str) -> Any:
    by_policy = {"never": false(), "without_auto_renew": Certificate.auto_renew.is_(False), "overdue": true()}[policy]
    renews_this = Order.renews_certificate_id == Certificate.id
    failed_at = select(func.max(Order.updated_at)).where(renews_this, Order.state == OrderState.FAILED)
    columns = (Certificate.id, Certificate.not_before, Certificate.not_after, Certificate.auto_renew)
    return (
        select(*columns, RenewalInfo.renew_at, failed_at.scalar_subquery())
        .outerjoin(RenewalInfo, RenewalInfo.certificate_id == Certificate.id)
        .where(
            newest_of_lineage(),
            Certificate.state == "issued",
            Certificate.not_after > now,
            or_(RenewalInfo.renew_at <= now, and_(by_policy, Certificate.not_after <= now + RENEWAL_HORIZON)),
            ~exists().where(renews_this, Order.in_flight_key.is_not(None)),
        )
        .order_by(Certificate.not_after)
    )


def _capacity(account_id: int, session: Session) -> int:
    """How many more renewals may be ordered now."""
    quota = session.get(Quota, account_id)
    most = max(1, int(quota.call_limit * _CONCURRENT_SHARE)) if quota else 1
    renewals = Order.renews_certificate_id.is_not(None)
    purchasing = session.scalar(select(func.count()).where(renewals, Order.state.in_(_BEING_PURCHASED)))
    return max(0, most - (purchasing or 0))
