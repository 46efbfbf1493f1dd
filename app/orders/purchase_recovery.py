"""What DNSimple has already: the certificate of a purchase whose answer was lost, or the successor of a renewed one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, select

from app.db.clock import read_now
from app.db.database import Database
from app.db.models import Certificate, Order
from app.db.models.states import FAILED_CERTIFICATE_STATES, FINAL_ORDER_STATES
from app.dnsimple.adapter import Certificate as RemoteCertificate
from app.dnsimple.adapter import Deadline, DNSimple
from app.dnsimple.budgeted_calls import Answer

# A certificate counts as the result of a lost purchase if DNSimple created it after our attempt. Clocks may differ by
# this much; the offset of a clock of ours that is further ahead is computed from the Date of DNSimple's answer.
_CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Successors:
    """`usable`: the newest successor that no order owns. `awaited_by`: another order that will yield one."""

    usable: RemoteCertificate | None = None
    awaited_by: str | None = None


def find_purchased(
    database: Database, dnsimple: DNSimple, order: Order, deadline: Deadline | None
) -> RemoteCertificate | None:
    """The certificate of a purchase whose answer was lost, if DNSimple lists it already."""
    attempted_at, answers = order.purchase_attempted_at or order.created_at, list[Answer]()
    for candidate in _with_same_names(dnsimple.with_observer(answers.append), order, deadline):
        since = attempted_at - _CLOCK_TOLERANCE - _clock_lead(database, answers[-1])
        if candidate.created_at is None or candidate.created_at < since:
            return None  # newest first: all the others are older
        is_ours = candidate.common_name.lower() == order.common_name  # DNSimple reports it as it was ordered
        if is_ours and candidate.state not in FAILED_CERTIFICATE_STATES and not _is_known(database, candidate.id):
            return candidate
    return None


def find_successors(database: Database, dnsimple: DNSimple, order: Order, deadline: Deadline | None) -> Successors:
    """What DNSimple has made since the certificate that the order renews: it may have renewed it automatically.

    A certificate that is only purchased does not count: it may never be issued. Nor does one whose order failed.
    """
    for candidate in _with_same_names(dnsimple, order, deadline):
        if candidate.id <= (order.renews_certificate_id or 0):
            break
        if candidate.state in {"requesting", "issued"}:
            if not _is_known(database, candidate.id):
                return Successors(usable=candidate)
            with database.read() as session:
                owned = select(Order).join(Certificate, Certificate.order_id == Order.id)
                owner = session.scalar(owned.where(Certificate.id == candidate.id))
            if owner is not None and owner.state not in FINAL_ORDER_STATES and owner.id != order.id:
                return Successors(awaited_by=owner.id)
    return Successors()


def _clock_lead(database: Database, answer: Answer) -> timedelta:
    """How far our clock is ahead of DNSimple's; zero if it is behind, or if the answer has no date."""
    if answer.sent_at is None:
        return timedelta(0)
    with database.read() as session:
        return max(timedelta(0), read_now(session) - datetime.fromtimestamp(answer.sent_at, UTC))


def _with_same_names(dnsimple: DNSimple, order: Order, deadline: Deadline | None) -> Iterator[RemoteCertificate]:
    """Newest first. DNSimple can omit the apex, and an authority the common name, so neither is compared."""
    wanted = {order.common_name, *order.san} - {order.domain}
    for candidate in dnsimple.certificates(order.domain, deadline=deadline):
        if {candidate.common_name.lower(), *map(str.lower, candidate.alternate_names)} - {order.domain} == wanted:
            yield candidate


def _is_known(database: Database, certificate_id: int) -> bool:
    with database.read() as session:
        return bool(session.scalar(select(exists().where(Certificate.id == certificate_id))))
