"""How an order ends that cannot be fulfilled: kept, with a reason that says what to do."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

import app.dnsimple.errors as dnsimple
from app.db.models import Order, OrderState
from app.errors import CertcourierError
from app.renewals.renewal import record_renewal_failure
from app.timeline import record_step

_PLAN_REMEDY = {
    "letsencrypt": "enable Let's Encrypt for the account (a subscribed plan is needed)",
    "custom-name": "order `www` or the apex, or move the account to a plan with custom names (Teams or higher)",
    "SAN": "order without `san`, or move the account to a plan with alternate names (Teams or higher)",
    "wildcard": "order a plain name, or move the account to a plan with wildcards (Teams or higher)",
}


def fail_order(session: Session, order: Order, reason: dict[str, Any]) -> None:
    """Close the order as failed, in the caller's transaction."""
    order.state = OrderState.FAILED
    order.in_flight_key = None
    order.failure = reason
    if order.renews_certificate_id is not None and reason["type"] != "not-needed":
        record_renewal_failure(session, order.renews_certificate_id, f"our renewal failed: {reason['detail']}")
    record_step(session, "failed", reason["detail"], order_id=order.id, certificate_id=order.certificate_id)


def problem_details_for(error: CertcourierError, order: Order) -> dict[str, Any]:
    """`{"type", "title", "detail"}` and what DNSimple said, ready for the caller and for the operator."""
    kind, title, remedy = _explain(error, order)
    reason: dict[str, Any] = {"type": kind, "title": title, "detail": f"{error}. {remedy}".replace("..", ".")}
    if isinstance(error, dnsimple.DNSimpleError):
        reason["dnsimple"] = {
            "status": error.status,
            "message": error.message,
            "request_id": error.request_id,
        }
    if isinstance(error, dnsimple.RefusedError) and error.field_errors:
        reason["errors"] = [
            {"field": field, "message": message}
            for field, messages in error.field_errors.items()
            for message in messages
        ]
    return reason


def _explain(error: CertcourierError, order: Order) -> tuple[str, str, str]:
    match error:
        case dnsimple.PlanLimitError():
            remedy = _PLAN_REMEDY.get(error.feature or "", "move the account to a plan with this feature")
            return "plan-limit", "The DNSimple plan does not include this", f"To go on, {remedy}."
        case dnsimple.PaymentRequiredError():
            return (
                "payment-required",
                "DNSimple wants to be paid",
                "Pay the account's open invoices, then order again.",
            )
        case dnsimple.ForbiddenError():
            remedy = "Give the API token full access to certificates of this domain, then order again."
            return "token-not-permitted", "The DNSimple token may not do this", remedy
        case dnsimple.NotFoundError():
            remedy = f"Add {order.domain} to the DNSimple account, or let the token see it, then order again."
            return "domain-not-in-account", "DNSimple does not know this domain", remedy
        case dnsimple.RefusedError():
            return "refused", "DNSimple refused the order", "Change what it names, then order again."
        case _:
            return "failed", "The order could not be fulfilled", "Order again once this is put right."
