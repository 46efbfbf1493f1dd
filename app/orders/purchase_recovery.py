"""What an order asks of DNSimple: a certificate of its own, or the successor of one; and what DNSimple has already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, select

from app.db.clock import read_now
from app.db.models import Certificate, Order, OrderState
from app.dnsimple.adapter import Certificate as RemoteCertificate
from app.dnsimple.adapter import Deadline, DNSimple, Purpose
from app.dnsimple.purposes import Answer
from app.services import Services

# A certificate counts as the answer to a lost purchase if DNSimple made it after our attempt; clocks differ by so much
# without anybody minding, and one of ours that is ahead by more is put right by what DNSimple's answer says.
_CLOCK_TOLERANCE = timedelta(minutes=5)
_UNUSABLE = {"failed", "rejected", "cancelled", "refunded"}
_ENDED = {OrderState.FETCHED, OrderState.FAILED}


@dataclass(frozen=True, slots=True)
class PurchaseResult:
    """`renewal_id` is what the issuance of a renewal takes; nothing tells it again when this answer is lost."""

    certificate_id: int
    state: str
    renewal_id: int | None = None


@dataclass(frozen=True, slots=True)
class Successors:
    """`usable`: the newest that nobody waits for yet. `awaited_by`: another order that will bring one."""

    usable: RemoteCertificate | None = None
    awaited_by: str | None = None


def dnsimple_for(services: Services, order: Order) -> DNSimple:
    """Somebody waits for an order, so the quota keeps a reserve for it; nobody waits for a renewal."""
    return services.dnsimple.with_purpose(Purpose.BACKGROUND if order.renews_certificate_id else Purpose.INTERACTIVE)


def purchase(dnsimple: DNSimple, order: Order, deadline: Deadline | None) -> PurchaseResult:
    """Not idempotent: after `LostAnswerError` look before buying again."""
    if order.renews_certificate_id is not None:
        renewal = dnsimple.order_renewal(
            order.domain,
            order.renews_certificate_id,
            auto_renew=order.auto_renew,
            signature_algorithm=order.signature_algorithm,
            deadline=deadline,
        )
        return PurchaseResult(renewal.new_certificate_id, "new", renewal.id)
    purchase = dnsimple.purchase(
        order.domain,
        name=order.name,
        alternate_names=order.san,
        auto_renew=order.auto_renew,
        signature_algorithm=order.signature_algorithm,
        deadline=deadline,
    )
    return PurchaseResult(purchase.certificate_id, purchase.state)


def request_issuance(
    dnsimple: DNSimple, order: Order, certificate_id: int, deadline: Deadline | None
) -> RemoteCertificate:
    """Ask for issuance. A renewal whose number was lost with its answer is asked for like any other certificate."""
    if order.renews_certificate_id is not None and order.renewal_id is not None:
        return dnsimple.issue_renewal(order.domain, order.renews_certificate_id, order.renewal_id, deadline=deadline)
    return dnsimple.issue(order.domain, certificate_id, deadline=deadline)


def find_purchased(services: Services, order: Order, deadline: Deadline | None) -> RemoteCertificate | None:
    """The certificate of a purchase whose answer was lost, if it shows already."""
    attempted_at, answers = order.purchase_attempted_at or order.created_at, list[Answer]()
    for candidate in _of_its_names(dnsimple_for(services, order).with_observer(answers.append), order, deadline):
        since = attempted_at - _CLOCK_TOLERANCE - _ahead(services, answers[-1])
        if candidate.created_at is None or candidate.created_at < since:
            return None  # newest first: all the others are older
        ours = candidate.common_name.lower() == order.common_name  # DNSimple says it as it was ordered
        if ours and candidate.state not in _UNUSABLE and not _is_known(services, candidate.id):
            return candidate
    return None


def find_successors(services: Services, order: Order, deadline: Deadline | None) -> Successors:
    """What DNSimple has made since the certificate that the order renews: it may have renewed by itself.

    One that is only bought is nobody's: it may never be issued. One that an order of ours has failed with is no use.
    """
    for candidate in _of_its_names(dnsimple_for(services, order), order, deadline):
        if candidate.id <= (order.renews_certificate_id or 0):
            break
        if candidate.state in {"requesting", "issued"}:
            if not _is_known(services, candidate.id):
                return Successors(usable=candidate)
            owner = _owner(services, candidate.id)
            if owner is not None and owner.state not in _ENDED and owner.id != order.id:
                return Successors(awaited_by=owner.id)
    return Successors()


def _ahead(services: Services, answer: Answer) -> timedelta:
    """How far our clock is ahead of DNSimple's; nothing if it is behind, or if the answer does not say."""
    if answer.sent_at is None:
        return timedelta(0)
    with services.database.read() as session:
        return max(timedelta(0), read_now(session) - datetime.fromtimestamp(answer.sent_at, UTC))


def _of_its_names(dnsimple: DNSimple, order: Order, deadline: Deadline | None) -> Iterator[RemoteCertificate]:
    """Newest first. DNSimple can leave out the apex, and an authority the common name, so neither is compared."""
    wanted = {order.common_name, *order.san} - {order.domain}
    for candidate in dnsimple.certificates(order.domain, deadline=deadline):
        if {candidate.common_name.lower(), *map(str.lower, candidate.alternate_names)} - {order.domain} == wanted:
            yield candidate


def _is_known(services: Services, certificate_id: int) -> bool:
    with services.database.read() as session:
        return bool(session.scalar(select(exists().where(Certificate.id == certificate_id))))


def _owner(services: Services, certificate_id: int) -> Order | None:
    query = select(Order).join(Certificate, Certificate.order_id == Order.id)
    with services.database.read() as session:
        return session.scalar(query.where(Certificate.id == certificate_id))
