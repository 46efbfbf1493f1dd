"""How an order fails: it is kept, with problem details that give the reason and the remedy."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

import app.dnsimple.errors as dnsimple
from app.certificates.records import record_renewal_failure
from app.db.models import Order, OrderState
from app.errors import CertcourierError
from app.timeline import record_step

_PLAN_REMEDY = {
    "letsencrypt": "Enable Let's Encrypt for the account (requires a paid plan).",
    "custom-name": "Order `www` or the apex, or upgrade to a plan with custom names (Teams or higher).",
    "SAN": "Order without `san`, or upgrade to a plan with alternate names (Teams or higher).",
    "wildcard": "Order a name that is not a wildcard, or upgrade to a plan with wildcards (Teams or higher).",
}


def fail_order(session: Session, order: Order, failure: dict[str, Any]) -> None:
    """Mark the order as failed in the caller's transaction."""
    order.state = OrderState.FAILED
    order.in_flight_key = None
    order.failure = failure
    if order.renews_certificate_id is not None and failure["type"] != "not-needed":
        record_renewal_failure(session, order.renews_certificate_id, f"renewal failed: {failure['detail']}")
    record_step(session, "failed", failure["detail"], order_id=order.id, certificate_id=order.certificate_id)


def problem_details_for(error: CertcourierError, order: Order) -> dict[str, Any]:
    """`{"type", "title", "detail"}` and DNSimple's answer, for the client and for the operator."""
    kind, title, remedy = _explain(error, order)
    details: dict[str, Any] = {"type": kind, "title": title, "detail": f"{error}. {remedy}".replace("..", ".")}
    if isinstance(error, dnsimple.DNSimpleError):
        details["dnsimple"] = {
            "status": error.status,
            "message": error.message,
            "request_id": error.request_id,
        }
    if isinstance(error, dnsimple.RefusedError) and error.field_errors:
        details["errors"] = [
            {"field": field, "message": message}
            for field, messages in error.field_errors.items()
            for message in messages
        ]
    return details


def _explain(error: CertcourierError, order: Order) -> tuple[str, str, str]:
    match error:
        case dnsimple.PlanLimitError():
            remedy = _PLAN_REMEDY.get(error.feature or "", "Upgrade to a plan that includes this feature.")
            return "plan-limit", "The DNSimple plan does not include this feature", remedy
        case dnsimple.PaymentRequiredError():
            return "payment-required", "DNSimple requires payment", "Pay the account's open invoices, then order again."
        case dnsimple.ForbiddenError():
            remedy = "Grant the API token full access to certificates of this domain, then order again."
            return "token-not-permitted", "The DNSimple token lacks a permission", remedy
        case dnsimple.NotFoundError():
            remedy = f"Add {order.domain} to the DNSimple account, or grant the token access to it, then order again."
            return "domain-not-in-account", "The domain is not in the DNSimple account", remedy
        case dnsimple.RefusedError():
            return "refused", "DNSimple refused the order", "Correct the fields that DNSimple names, then order again."
        case _:
            return "failed", "The order failed", "Fix the cause, then order again."
