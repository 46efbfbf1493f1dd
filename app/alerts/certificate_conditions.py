"""Conditions about certificates: their orders, deliveries, renewals and endpoints. `app.alerts.rules` uses them.

Each is a query that follows an index and is read no further than its reader needs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import aliased

from app.alerts.alert import ROWS_AT_A_TIME, Match, RuleContext, Severity
from app.auth.scopes import only
from app.certificates.lifetime import expires_within, renewal_times
from app.certificates.lineages import is_newer, newest_of_lineage
from app.certificates.records import renewal_failure
from app.db.models import (
    Certificate,
    Delivery,
    DeliveryState,
    Domain,
    EndpointCheck,
    EndpointState,
    Lineage,
    Order,
    OrderState,
    SuspendedDestination,
)

FAILED_ORDERS_SHOWN = timedelta(days=7)
# The client got these answers, and only the client can correct the request.
_CLIENT_ERRORS = {"domain-not-in-account", "plan-limit", "refused"}


def failed_orders(context: RuleContext) -> Generator[Match]:
    """Orders that failed recently and were not ordered again."""
    later = aliased(Order)
    ordered_again = exists().where(
        later.domain == Order.domain,
        later.id > Order.id,
        later.common_name == Order.common_name,
        later.state != OrderState.FAILED,
    )
    recent = Order.updated_at > context.now - FAILED_ORDERS_SHOWN
    query = select(Order).where(Order.state == OrderState.FAILED, recent, ~ordered_again)
    query = query.where(*only(context.domains, Order.domain)).order_by(Order.id)
    for order in context.session.scalars(query.execution_options(yield_per=ROWS_AT_A_TIME)):
        failure = order.failure or {}
        if order.certificate_id is not None or failure.get("type") not in _CLIENT_ERRORS:
            yield Match(
                f"order {order.id} for {order.common_name}",
                order.updated_at,
                str(failure.get("detail", "no reason is recorded")),
                "fix the cause and order again; the new order resolves this alert",
            )


def unsuccessful_deliveries(destinations: Iterable[str]) -> list[ColumnElement[bool]]:
    """Deliveries that are failing or failed permanently, unless their destination was removed from the configuration
    or a newer certificate was delivered to it."""
    certificate, newer, done = aliased(Certificate), aliased(Certificate), aliased(Delivery)
    newer_delivered = exists().where(
        certificate.id == Delivery.certificate_id,
        is_newer(newer, certificate),
        done.certificate_id == newer.id,
        done.destination == Delivery.destination,
        done.state == DeliveryState.DELIVERED,
    )
    return [Delivery.is_unsuccessful(), Delivery.destination.in_(list(destinations)), ~newer_delivered]


def failing_deliveries(context: RuleContext) -> Generator[Match]:
    """Deliveries that failed permanently or have been failing for a while, unless a newer certificate was delivered."""
    lasting = Delivery.created_at < context.now - timedelta(seconds=context.services.settings.alert_delivery_seconds)
    query = (
        select(Delivery, Lineage.name)
        .join(Certificate, Certificate.id == Delivery.certificate_id)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(
            *unsuccessful_deliveries(context.services.destinations),
            or_(Delivery.state == DeliveryState.FAILED, lasting),
            *context.permitted(),
        )
        .order_by(Delivery.id.desc())
    )
    for delivery, lineage in context.session.execute(query.execution_options(yield_per=ROWS_AT_A_TIME)):
        failed = delivery.state == DeliveryState.FAILED
        remedy = f"fix the destination, then `certcourier deliveries retry --destination {delivery.destination}`"
        yield Match(
            f"{lineage} to {delivery.destination}",
            delivery.created_at,
            f"{'failed permanently' if failed else 'failing'}: {delivery.detail}",
            remedy if failed else f"{remedy} (it also retries automatically)",
            Severity.CRITICAL if failed else None,
        )


def suspended_destinations(context: RuleContext) -> Generator[Match]:
    """Destinations whose receiver accepts no more deliveries (410 Gone)."""
    query = select(SuspendedDestination).order_by(SuspendedDestination.destination)
    for row in context.session.scalars(query):
        if row.destination in context.services.destinations:
            yield Match(
                row.destination,
                row.suspended_at,
                f"deliveries are suspended: {row.reason}",
                f"once the receiver accepts deliveries again, `certcourier destinations resume {row.destination}`",
            )


def _expiring(context: RuleContext, *, renewed_automatically: bool) -> Generator[tuple[str, datetime, bool, int, str]]:
    """Certificates in use whose successor is overdue: lineage, since when, whether it is critical, ID, expiry."""
    # Without RENEWAL_POLICY, a certificate whose auto-renewal is off is not renewed at all.
    if context.services.settings.renewal_policy == "never":
        is_off = Certificate.auto_renew.is_(False)
        chosen = [Certificate.auto_renew.is_not(False)] if renewed_automatically else [is_off]
    elif renewed_automatically:
        chosen = []
    else:
        return
    in_account = or_(Certificate.domain_id.is_(None), exists().where(Domain.id == Certificate.domain_id))
    query = (
        select(Certificate.id, Certificate.not_before, Certificate.not_after, Lineage.name)
        .join(Lineage, Lineage.id == Certificate.lineage_id)
        .where(
            expires_within(context.now),
            in_account,
            newest_of_lineage(),
            *chosen,
            *context.permitted(),
        )
        .order_by(Certificate.not_after)
    )
    with context.session.execute(query.execution_options(yield_per=ROWS_AT_A_TIME)) as rows:
        for certificate_id, not_before, not_after, lineage in rows:
            if not_before is None or not_after is None:
                continue
            times = renewal_times(not_before, not_after)
            if context.now >= times.overdue_at:
                expiry = "expired" if context.now >= not_after else "expires"
                expiry = f"certificate {certificate_id} {expiry} on {not_after:%Y-%m-%d %H:%M} UTC"
                yield lineage, times.expected_at, context.now >= times.critical_at, certificate_id, expiry


def overdue_renewals(context: RuleContext) -> Generator[Match]:
    """Certificates in use that should have been renewed automatically."""
    for lineage, since, is_critical, certificate_id, expiry in _expiring(context, renewed_automatically=True):
        reason = renewal_failure(context.session, certificate_id)
        yield Match(
            lineage,
            since,
            f"{expiry} and has not been renewed" + (f": {reason}" if reason else ""),
            "check the domain at DNSimple: is auto-renewal on, is the domain delegated to DNSimple, does CAA allow "
            "letsencrypt.org? `certcourier doctor --domain DOMAIN` checks them",
            Severity.CRITICAL if is_critical else None,
            certificate_id,
        )


def renewals_off(context: RuleContext) -> Generator[Match]:
    """Certificates in use that near their expiry and are renewed by neither DNSimple nor us."""
    for lineage, since, _, certificate_id, expiry in _expiring(context, renewed_automatically=False):
        yield Match(
            lineage,
            since,
            f"{expiry} and will not be renewed: auto-renewal is off and RENEWAL_POLICY is `never`",
            "turn on auto-renewal at DNSimple or order a new certificate; if it is meant to expire, silence this alert",
            certificate_id=certificate_id,
        )


def _endpoints(context: RuleContext, state: EndpointState, remedy: str) -> Generator[Match]:
    query = (
        select(EndpointCheck, Lineage.name)
        .join(Lineage, Lineage.id == EndpointCheck.lineage_id)
        .join(Certificate, Certificate.id == EndpointCheck.certificate_id)
        .where(
            EndpointCheck.state == state,
            EndpointCheck.endpoint.in_(context.services.endpoints),
            *context.permitted(),
        )
        .order_by(EndpointCheck.since)
    )
    for check, lineage in context.session.execute(query.execution_options(yield_per=ROWS_AT_A_TIME)):
        yield Match(f"{lineage} at {check.endpoint}", check.since, check.detail or "", remedy)


def stale_endpoints(context: RuleContext) -> Generator[Match]:
    """Endpoints that serve the wrong certificate."""
    return _endpoints(context, EndpointState.STALE, "reload the server; the endpoint is checked again within the hour")


def unreachable_endpoints(context: RuleContext) -> Generator[Match]:
    """Endpoints that could not be reached."""
    remedy = "check that the server is running and reachable from the worker; it is checked again within the hour"
    return _endpoints(context, EndpointState.UNREACHABLE, remedy)
