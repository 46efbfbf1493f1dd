"""Requests and documents of the HTTP API; `openapi` builds the OpenAPI document from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from app.alerts.alert import ActiveAlert
from app.db.models import Certificate, DeliveryState, EndpointCheck, EndpointState, Order, OrderState, TimelineEntry
from app.domain_names import OrderRequest


def _split_names(value: object) -> object:
    """A list of names from a list or comma-separated text; null and empty text are an empty list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


Name = Annotated[str, Field(max_length=1000)]


class IssueRequest(BaseModel):
    """A request for a certificate."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    domain: Name = Field(description="Domain of the DNSimple account, e.g. `example.com`; Unicode is accepted.")
    name: Name = Field(
        "www",
        description="Part of the common name before the domain: `www` also covers the bare domain, an empty string "
        "is only the bare domain, `*` is a wildcard.",
    )
    san: Annotated[list[Name], BeforeValidator(_split_names), Field(max_length=1000)] = Field(
        default=[],
        validation_alias=AliasChoices("san", "alternate_names"),
        description="Additional names within the domain, as a list or comma-separated; labels or full names.",
    )
    auto_renew: bool = Field(
        default=True,
        validation_alias=AliasChoices("auto_renew", "auto_renewal"),
        description="Whether DNSimple renews the certificate automatically.",
    )
    signature_algorithm: Literal["ECDSA", "RSA"] = Field("ECDSA", description="Algorithm of the certificate's key.")

    def order(self) -> OrderRequest:
        """The order that this request describes."""
        return OrderRequest(self.domain, self.name, tuple(self.san), self.auto_renew, self.signature_algorithm)


class DeliveryDocument(BaseModel):
    """Delivery of a certificate to one destination."""

    destination: str
    state: DeliveryState
    detail: str | None = Field(description="Location of the certificate, or the reason of the last failure.")
    blocked_by: str | None = Field(description="What the delivery is waiting for.")
    delivered_at: datetime | None


class StepDocument(BaseModel):
    """One step of the timeline."""

    at: datetime
    step: str
    detail: str


class EndpointDocument(BaseModel):
    """Check of an endpoint that should serve the certificate."""

    endpoint: str
    state: EndpointState = Field(description="`unverified`: not verified yet; `stale`: another certificate is served.")
    since: datetime
    detail: str | None = Field(description="Result of the last check.")
    served_fingerprint: str | None = Field(description="SHA-256 fingerprint of the leaf served at the last check.")
    last_checked_at: datetime | None


class OrderDocument(BaseModel):
    """An order. `order_state` is the order's state, `state` the certificate's state at DNSimple."""

    order_id: str
    order_state: OrderState
    certificate_id: int | None = Field(description="DNSimple's certificate ID, once purchased.")
    renews_certificate_id: int | None = Field(
        None, description="For a renewal by Certcourier: the certificate that it replaces."
    )
    domain: str
    common_name: str
    san: list[str]
    names: list[str] = Field(description="All names that the certificate covers.")
    state: str | None = Field(description="`new`, `requesting`, `issued`, `failed`...; null before the purchase.")
    auto_renew: bool
    signature_algorithm: str
    failure: dict[str, Any] | None = Field(description="Reason of the failure: `type`, `title`, `detail`.")
    created_at: datetime
    updated_at: datetime


class OrderDetail(OrderDocument):
    """An order with its timeline and its certificate's deliveries."""

    deliveries: list[DeliveryDocument]
    timeline: list[StepDocument]


class CertificateDocument(BaseModel):
    """A certificate. X.509 fields are null until it is fetched. The private key is never included."""

    certificate_id: int
    domain: str
    common_name: str
    names: list[str]
    state: str
    auto_renew: bool | None
    order_id: str | None = Field(
        description="Null if it was not ordered through Certcourier, for example a renewal by DNSimple."
    )
    lineage: str | None = Field(description="Name of the slot that it shares with its predecessors and successors.")
    serial: str | None
    fingerprint_sha256: str | None
    key_algorithm: str | None
    not_before: datetime | None
    not_after: datetime | None
    fetched_at: datetime | None
    created_at: datetime
    deliveries: list[DeliveryDocument]


class CertificateDetail(CertificateDocument):
    """A certificate with its PEM data and timeline."""

    certificate_pem: str | None
    chain_pem: str | None
    endpoints: list[EndpointDocument] = Field(description="Empty once a newer certificate has replaced this one.")
    timeline: list[StepDocument]


class AlertDocument(BaseModel):
    """An open alert."""

    id: int | None = Field(description="For `certcourier alerts silence`; null until a worker has recorded the alert.")
    kind: str
    severity: Literal["critical", "warning"]
    subject: str = Field(description="The certificate, endpoint, job or worker; identifies the alert with `kind`.")
    since: datetime
    last_notified_at: datetime | None = Field(description="When a notification about it was last enqueued.")
    detail: str
    remedy: str = Field(description="What to do about it.")


def alert_document(alert: ActiveAlert) -> dict[str, Any]:
    """An alert as JSON."""
    return AlertDocument.model_validate(alert, from_attributes=True).model_dump(mode="json")


def order_document(order: Order, certificate: Certificate | None) -> dict[str, Any]:
    """An order as JSON."""
    return OrderDocument(**_order_fields(order, certificate)).model_dump(mode="json")


def order_detail(order: Order, certificate: Certificate | None, timeline: list[TimelineEntry]) -> dict[str, Any]:
    """An order with deliveries and timeline, as JSON."""
    deliveries = _deliveries(certificate) if certificate else []
    fields = _order_fields(order, certificate)
    return OrderDetail(**fields, deliveries=deliveries, timeline=_timeline(timeline)).model_dump(mode="json")


def certificate_document(certificate: Certificate) -> dict[str, Any]:
    """A certificate as JSON."""
    return CertificateDocument(**_certificate_fields(certificate)).model_dump(mode="json")


def certificate_detail(
    certificate: Certificate, timeline: list[TimelineEntry], endpoints: list[EndpointCheck]
) -> dict[str, Any]:
    """A certificate with PEM data, endpoints and timeline, as JSON."""
    return CertificateDetail(
        **_certificate_fields(certificate),
        certificate_pem=certificate.leaf_pem,
        chain_pem=certificate.chain_pem,
        endpoints=[EndpointDocument.model_validate(seen, from_attributes=True) for seen in endpoints],
        timeline=_timeline(timeline),
    ).model_dump(mode="json")


def _order_fields(order: Order, certificate: Certificate | None) -> dict[str, Any]:
    return {
        "order_id": order.id,
        "order_state": order.state,
        "certificate_id": order.certificate_id,
        "renews_certificate_id": order.renews_certificate_id,
        "domain": order.domain,
        "common_name": order.common_name,
        "san": order.san,
        "names": order.names,
        "state": certificate.state if certificate else None,
        "auto_renew": order.auto_renew,
        "signature_algorithm": order.signature_algorithm,
        "failure": order.failure,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


def _certificate_fields(certificate: Certificate) -> dict[str, Any]:
    return {
        "certificate_id": certificate.id,
        "domain": certificate.domain,
        "common_name": certificate.common_name,
        "names": certificate.names,
        "state": certificate.state,
        "auto_renew": certificate.auto_renew,
        "order_id": certificate.order_id,
        "lineage": certificate.lineage.name if certificate.lineage else None,
        "serial": certificate.serial,
        "fingerprint_sha256": certificate.fingerprint,
        "key_algorithm": certificate.key_algorithm,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "fetched_at": certificate.fetched_at,
        "created_at": certificate.created_at,
        "deliveries": _deliveries(certificate),
    }


def _deliveries(certificate: Certificate) -> list[DeliveryDocument]:
    return [DeliveryDocument.model_validate(delivery, from_attributes=True) for delivery in certificate.deliveries]


def _timeline(lines: list[TimelineEntry]) -> list[StepDocument]:
    return [StepDocument.model_validate(line, from_attributes=True) for line in lines]
