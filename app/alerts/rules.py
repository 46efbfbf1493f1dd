"""Which problems exist now? One place that says so, from what is on record: nothing is missed by a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from app.certificates.lifetime import expires_within, renewal_times
from app.certificates.lineages import is_newer, newest_of_lineage
from app.certificates.records import renewal_failure
from app.db.clock import read_now
from app.db.installation_state import MISSED_EVENTS, WEBHOOK_CHECKED_AT
from app.db.models import (
    Certificate,
    Delivery,
    DeliveryState,
    Domain,
    EndpointCheck,
    Job,
    Lineage,
    Order,
    OrderState,
    Quota,
    Worker,
)
from app.jobs.kinds import PERIODS, JobKind
from app.services import Services

_ORDERS_DAYS = 7
_WEBHOOK_TOLD = timedelta(days=1)
_WEBHOOK_UNSEEN = timedelta(minutes=15)
_SILENT_SECONDS = 60.0
# The client was answered with these, and nobody else can mend them.
_CLIENTS_FAULT = {"domain-not-in-account", "plan-limit", "refused"}
# These say what became of them elsewhere: at the order, at the delivery.
_REPORTED_OTHERWISE = [kind for kind in JobKind if not kind.definition.alert_on_death]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert. `one` and `many` begin a message; it is over once it was not found for `settle_seconds`."""

    one: str
    many: str
    settle_seconds: float = 0.0


KINDS = {
    "issuance_failed": Kind("An order has failed", "{} orders have failed"),
    "delivery_failing": Kind("A delivery is failing", "{} deliveries are failing"),
    "renewal_overdue": Kind("A renewal is overdue", "{} renewals are overdue"),
    "endpoint_stale": Kind("An endpoint serves another certificate", "{} endpoints serve another certificate"),
    "endpoint_unreachable": Kind("An endpoint cannot be reached", "{} endpoints cannot be reached"),
    "webhook_lost": Kind("The webhook was suppressed or missing", "The webhook was suppressed or missing"),
    "webhook_unchecked": Kind("The webhook cannot be looked at", "The webhook cannot be looked at"),
    "quota_low": Kind("DNSimple's quota is nearly spent", "DNSimple's quota is nearly spent", 7200.0),
    "quota_stopped": Kind("All calls to DNSimple are stopped", "All calls to DNSimple are stopped", 900.0),
    "token_rejected": Kind("DNSimple rejects the token", "DNSimple rejects the token"),
    "job_dead": Kind("A job was given up", "{} jobs were given up"),
    "worker_silent": Kind("A worker is silent", "{} workers are silent"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """`kind` and `subject` say which problem it is, as long as it lasts."""

    kind: str
    subject: str
    since: datetime
    detail: str
    remedy: str


def evaluate_rules(services: Services, session: Session) -> list[Problem]:
    """All of them, one for each kind and subject."""
    now = read_now(session)
    found: dict[tuple[str, str], Problem] = {}
    for finder in _FINDERS:
        for problem in finder(services, session, now):
            found.setdefault((problem.kind, problem.subject), problem)
    return list(found.values())


def _issuance(services: Services, session: Session, now: datetime) -> Iterator[Problem]:  # noqa: ARG001
    later = aliased(Order)
    again = exists().where(
        later.domain == Order.domain,
        later.id > Order.id,
        later.common_name == Order.common_name,
        later.state != OrderState.FAILED,
    )
    recent = Order.updated_at > now - timedelta(days=_ORDERS_DAYS)
    for order in session.scalars(
        select(Order).where(Order.state == OrderState.FAILED, recent, ~again).order_by(Order.id)
    ):
        failure = order.failure or {}
        if order.certificate_id is None and failure.get("type") in _CLIENTS_FAULT:
            continue
        yield Problem(
            "issuance_failed",
            f"order {order.id} for {order.common_name}",
            order.updated_at,
            str(failure.get("detail", "no reason is on record")),
            "put right what it names, then order again: the new order ends this alert",
        )


def _deliveries(services: Services, session: Session, now: datetime) -> Iterator[Problem]:
    newer, done = aliased(Certificate), aliased(Delivery)
    overtaken = exists().where(
        is_newer(newer),
        done.certificate_id == newer.id,
        done.destination == Delivery.destination,
        done.state == DeliveryState.DELIVERED,
    )
    query = (
        select(Delivery, Lineage.name)
        .join(Certificate, Certificate.id == Delivery.certificate_id)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(Delivery.is_unsuccessful(), ~overtaken)
        .order_by(Delivery.id.desc())
    )
    patience = timedelta(seconds=services.settings.alert_delivery_seconds)
    for delivery, lineage in session.execute(query):
        given_up = delivery.state == DeliveryState.FAILED
        if delivery.destination not in services.destinations or not (given_up or delivery.created_at < now - patience):
            continue
        remedy = f"put it right, then `flask deliveries retry --destination {delivery.destination}`"
        yield Problem(
            "delivery_failing",
            f"{lineage} to {delivery.destination}",
            delivery.created_at,
            ("given up: " if given_up else "") + str(delivery.detail),
            remedy if given_up else f"{remedy}; it is also retried by itself",
        )


def _renewals(services: Services, session: Session, now: datetime) -> Iterator[Problem]:  # noqa: ARG001
    query = (
        select(Certificate.id, Certificate.not_before, Certificate.not_after, Lineage.name)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(
            expires_within(now),
            newest_of_lineage(),
            Certificate.auto_renew.is_not(False),
            exists().where(Domain.id == Certificate.domain_id),  # else it has left the account
        )
        .order_by(Certificate.not_after)
    )
    for number, not_before, not_after, lineage in session.execute(query):
        if not_before is None or not_after is None:
            continue
        times = renewal_times(not_before, not_after)
        if now >= times.overdue_at:
            ended = "has expired" if now >= not_after else "expires"
            noted = renewal_failure(session, number)
            yield Problem(
                "renewal_overdue",
                lineage,
                times.expected_at,
                f"certificate {number} {ended} on {not_after:%Y-%m-%d %H:%M} UTC and has no successor"
                + (f": {noted}" if noted else ""),
                "look at the domain's certificates at DNSimple: is it renewed automatically, is the domain delegated "
                "to DNSimple, does CAA allow letsencrypt.org?",
            )


def _endpoints(services: Services, session: Session, now: datetime) -> Iterator[Problem]:  # noqa: ARG001
    remedies = {
        "stale": "reload the server; it is looked at again within the hour",
        "unreachable": "see that the server runs and can be reached from the worker; it is looked at again within "
        "the hour",
    }
    query = (
        select(EndpointCheck, Lineage.name)
        .join(Lineage, Lineage.id == EndpointCheck.lineage_id)
        .where(EndpointCheck.state.in_(remedies))
        .order_by(EndpointCheck.since)
    )
    for seen, lineage in session.execute(query):
        if seen.endpoint in services.endpoints:
            subject, detail = f"{lineage} at {seen.endpoint}", seen.detail or ""
            yield Problem(f"endpoint_{seen.state}", subject, seen.since, detail, remedies[seen.state])


def _webhook(services: Services, session: Session, now: datetime) -> Iterator[Problem]:  # noqa: ARG001
    missed, checked_at = MISSED_EVENTS.get(session), WEBHOOK_CHECKED_AT.get(session)
    if missed is not None and now - missed.found_at < _WEBHOOK_TOLD:
        yield Problem(
            "webhook_lost",
            "our webhook",
            missed.found_at,
            f"it was found {missed.cause} and was registered anew; what it missed is being looked for",
            "see why DNSimple's events were answered with anything but 200: the web server's log, and whatever "
            "stands before it",
        )
    # A worker that has just been started has yet to look.
    started = session.scalar(select(func.max(Worker.started_at))) or now
    since = max(checked_at, started) if checked_at else started
    if now - since > _WEBHOOK_UNSEEN:
        yield Problem(
            "webhook_unchecked",
            "our webhook",
            since,
            "whether it is registered and not suppressed is not known: the job `register_webhook` does not succeed",
            "see why: `flask jobs list`, the column last_error",
        )


def _quota(services: Services, session: Session, now: datetime) -> Iterator[Problem]:
    row = session.get(Quota, services.account_id)
    if row is None:
        return
    if row.blocked_token is not None and row.blocked_token == services.token_digest:
        yield Problem(
            "token_rejected",
            f"account {services.account_id}",
            now,
            "DNSimple answers 401 to our token; nothing is ordered or fetched, and all of it waits",
            "set a valid DNSIMPLE_API_TOKEN, then restart web and worker",
        )
    elif row.blocked_token is None and row.blocked_until is not None and row.blocked_until > now:
        yield Problem(
            "quota_stopped",
            f"account {services.account_id}",
            now,
            f"{row.blocked_reason}; calls begin again at {row.blocked_until:%H:%M:%S} UTC",
            "see which other programs use the account's quota at DNSimple",
        )
    low = row.call_limit * services.settings.alert_quota_percent / 100
    if row.remaining <= low and row.reset_at - now > timedelta(seconds=row.window_seconds / 4):
        yield Problem(
            "quota_low",
            f"account {services.account_id}",
            now,
            f"{row.remaining} of {row.call_limit} calls are left; what waits goes on at {row.reset_at:%H:%M} UTC",
            "no action is needed for a wave of renewals; else see which other programs use the account's quota",
        )


def _jobs(services: Services, session: Session, now: datetime) -> Iterator[Problem]:  # noqa: ARG001
    later = aliased(Job)
    mended = exists().where(later.kind == Job.kind, later.id > Job.id, later.state == "done")
    query = select(Job).where(
        Job.state == "dead", Job.kind.not_in(_REPORTED_OTHERWISE), ~(Job.kind.in_(PERIODS) & mended)
    )
    for job in session.scalars(query.order_by(Job.id.desc())):
        if job.kind == JobKind.FETCH_CERTIFICATE and _is_settled(session, job.args.get("certificate_id")):
            continue
        yield Problem(
            "job_dead",
            job.kind if job.kind in PERIODS else _about(job),
            job.finished_at or job.created_at,
            job.last_error or "",
            f"mend the cause, then `flask jobs retry {job.id}`",
        )


def _about(job: Job) -> str:
    shown = {
        name: job.args[name] for name in ("certificate_id", "order_id", "endpoint", "address") if job.args.get(name)
    }
    return " ".join([job.kind, *(f"{name}={value}" for name, value in shown.items())])


def _is_settled(session: Session, certificate_id: object) -> bool:
    """Whether an installation that was given up is told of at its order, or was done after all."""
    certificate = session.get(Certificate, certificate_id)
    if certificate is None:
        return False
    order = session.get(Order, certificate.order_id) if certificate.order_id else None
    return certificate.fetched_at is not None or (order is not None and order.state == OrderState.FAILED)


def silent_workers(session: Session) -> list[Problem]:
    """Workers that fell silent without a word and were not replaced by one that was started since."""
    rows = list(session.scalars(select(Worker).order_by(Worker.last_heartbeat_at.desc())))
    recent = read_now(session) - timedelta(seconds=_SILENT_SECONDS)
    starts = sorted((row.started_at for row in rows if row.last_heartbeat_at > recent), reverse=True)
    found = []
    for row in rows:
        if row.last_heartbeat_at > recent:
            continue
        if starts and starts[0] > row.last_heartbeat_at:
            starts.pop(0)
            continue
        found.append(
            Problem(
                "worker_silent",
                f"worker {row.id} on {row.host}",
                row.last_heartbeat_at,
                f"not heard from since {row.last_heartbeat_at:%Y-%m-%d %H:%M:%S} UTC, and not stopped by anybody",
                "see whether its process and host are alive, then start `flask worker`",
            )
        )
    return found


def _workers(services: Services, session: Session, now: datetime) -> Iterator[Problem]:  # noqa: ARG001
    yield from silent_workers(session)


_FINDERS: tuple[Callable[[Services, Session, datetime], Iterator[Problem]], ...] = (
    _issuance,
    _deliveries,
    _renewals,
    _endpoints,
    _webhook,
    _quota,
    _jobs,
    _workers,
)
