"""The tables. DNSimple is authoritative for certificates, these tables for the work that remains."""

from app.db.models.access import ApiToken, AuditEntry, DashboardSession, RequestCount
from app.db.models.alerts import Alert
from app.db.models.base import AutoId, Base, new_id
from app.db.models.certificates import Certificate, Domain, ImportedDomain, ImportRun, Lineage, RenewalInfo
from app.db.models.deliveries import Delivery, EndpointCheck, HookRun, SuspendedDestination
from app.db.models.events import Event, TimelineEntry, WebhookSecret
from app.db.models.installation import InstallationState
from app.db.models.jobs import Job, Periodic, Quota, Worker
from app.db.models.orders import IdempotencyKey, Order
from app.db.models.states import (
    UNFINISHED_DELIVERIES,
    UNSUCCESSFUL_DELIVERIES,
    DeliveryState,
    EndpointState,
    HookRunState,
    JobState,
    OrderState,
)

__all__ = [
    "UNFINISHED_DELIVERIES",
    "UNSUCCESSFUL_DELIVERIES",
    "Alert",
    "ApiToken",
    "AuditEntry",
    "AutoId",
    "Base",
    "Certificate",
    "DashboardSession",
    "Delivery",
    "DeliveryState",
    "Domain",
    "EndpointCheck",
    "EndpointState",
    "Event",
    "HookRun",
    "HookRunState",
    "IdempotencyKey",
    "ImportRun",
    "ImportedDomain",
    "InstallationState",
    "Job",
    "JobState",
    "Lineage",
    "Order",
    "OrderState",
    "Periodic",
    "Quota",
    "RenewalInfo",
    "RequestCount",
    "SuspendedDestination",
    "TimelineEntry",
    "WebhookSecret",
    "Worker",
    "new_id",
]
