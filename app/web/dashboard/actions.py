"""Actions on a certificate: buttons that call the same use cases as the commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import abort, redirect, request, url_for

from app.db.models import Certificate
from app.deliveries import redelivery
from app.operations import key_refetch
from app.renewals import renewal
from app.web.context import services
from app.web.dashboard.blueprint import blueprint
from app.web.dashboard.login import page, who


@dataclass(frozen=True, slots=True)
class Action:
    """A button: where it posts to, its label, and what a screen reader adds to it."""

    url: str
    label: str
    about: str


def of(certificate: Certificate, *, has_successor: bool) -> list[Action]:
    """The actions that are possible for this certificate."""
    if certificate.fetched_at is None or has_successor:
        return []
    renewal = url_for("dashboard.renew", certificate_id=certificate.id)
    refetch = url_for("dashboard.refetch", certificate_id=certificate.id)
    return [
        Action(renewal, "Renew now", certificate.common_name),
        Action(refetch, "Fetch the key again", f"of {certificate.common_name} from DNSimple"),
    ]


@blueprint.post("/certificates/<id:certificate_id>/refetch")
@page(scope="admin")
def refetch(certificate_id: int) -> Any:
    """Queue a job that fetches the private key from DNSimple again."""
    with services().database.write() as session:
        _require(session.get(Certificate, certificate_id))
        key_refetch.enqueue_key_refetch(services().queue, session, [certificate_id], actor=who().actor)
    return _show_certificate(certificate_id, "refetched")


@blueprint.post("/certificates/<id:certificate_id>/renew")
@page(scope="admin")
def renew(certificate_id: int) -> Any:
    """Order its renewal now, unless one is already in progress."""
    with services().database.write() as session:
        _require(session.get(Certificate, certificate_id))
        order_id = renewal.renew_now(
            services().queue, services().account_id, session, certificate_id, actor=who().actor, requested_by=who().name
        )
    return _show_certificate(certificate_id, "renewed" if order_id is not None else "renewing")


@blueprint.post("/certificates/<id:certificate_id>/redeliver")
@page(scope="admin")
def redeliver(certificate_id: int) -> Any:
    """Queue its delivery to a destination again."""
    with services().database.read() as session:
        _require(session.get(Certificate, certificate_id))
    wanted = redelivery.RedeliveryRequest(
        request.form.get("destination", ""), certificate_id=certificate_id, again=True
    )
    redelivery.count_lineages(services().database, services().destinations, wanted)  # raises if it is not possible
    for _ in redelivery.redeliver(
        services().database, services().queue, services().destinations, wanted, actor=who().actor
    ):
        pass
    return _show_certificate(certificate_id, "redelivered")


def _require(certificate: Certificate | None) -> Certificate:
    if certificate is None or certificate.fetched_at is None:
        abort(404, "No fetched certificate has this ID.")
    return certificate


def _show_certificate(certificate_id: int, done: str) -> Any:
    return redirect(url_for("dashboard.certificate", certificate_id=certificate_id, done=done), 303)
