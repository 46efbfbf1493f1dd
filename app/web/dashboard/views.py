"""The overview, orders, events, jobs, destinations, DNSimple and the audit trail."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Response, abort, redirect, request, url_for

from app.certificates import queries
from app.db.clock import read_now
from app.db.models import OrderState
from app.deliveries import suspension
from app.operations import job_retry
from app.renewals.forecast import WEEKS, RenewalForecast
from app.web.api.certificates import ListQuery
from app.web.context import current, services
from app.web.dashboard import lists
from app.web.dashboard.blueprint import blueprint, render
from app.web.dashboard.login import page, who
from app.web.dashboard.overview import load_overview

LIMIT = 50
_SHORT = 20
# The notices that a redirect after a form can show; nothing from a URL is ever repeated on a page.
DONE = {
    "retried": "The job is queued again.",
    "gone": "This job is no longer dead.",
    "resumed": "Deliveries are resumed; failed ones are queued again.",
    "refetched": "The private key is being fetched again.",
    "renewed": "The renewal has been ordered.",
    "renewing": "A renewal is already in progress.",
    "redelivered": "The delivery is queued again.",
}


@blueprint.get("")
@page(by_domain=True)
def overview() -> Response:
    """Alerts first, then counts, upcoming renewals and recent activity."""
    domains = who().domains
    overview = load_overview(services(), domains)
    forecast = current().forecasts.get(domains)
    return render(
        "overview.html",
        overview=overview,
        now=overview.now,
        weeks=_weeks(forecast),
        most=max(forecast.days.values(), default=0),
        steps=lists.newest_steps(services().database, 8) if domains is None else (),
    )


@blueprint.get("/")
@blueprint.get("/<path:unknown>")
@page(by_domain=True)
def elsewhere(unknown: str = "") -> Any:
    """The overview for `/`, and an error page for an unknown path."""
    if unknown:
        abort(404, "This page does not exist.")
    return redirect(url_for("dashboard.overview"), 303)


@blueprint.get("/orders")
@page(by_domain=True)
def orders() -> Response:
    """The orders, newest first."""
    query = _list_query()
    found = queries.list_orders(
        services().database, domain=query.domain, state=query.state, cursor=cursor(), limit=LIMIT, domains=who().domains
    )
    return render(
        "orders.html",
        page=found,
        states=list(OrderState),
        query=query,
        next_page=next_page(found.next_cursor),
        now=_now(),
    )


@blueprint.get("/orders/<order_id>")
@page(by_domain=True)
def order(order_id: str) -> Response:
    """One order with its timeline."""
    found = queries.find_order(services().database, order_id[:40], domains=who().domains)
    if found is None:
        abort(404, "No order has this ID.")
    return render("order.html", order=found[0], certificate=found[1], timeline=found[2], now=_now())


@blueprint.get("/events")
@page()
def events() -> Response:
    """DNSimple's events, newest first."""
    found = queries.list_events(services().database, cursor=cursor(), limit=LIMIT)
    return render("events.html", page=found, next_page=next_page(found.next_cursor), now=_now())


@blueprint.get("/jobs")
@page()
def jobs() -> Response:
    """The jobs: dead ones first, then running, queued and finished ones."""
    found = lists.list_jobs(services().database, cursor=cursor(), limit=_SHORT)
    return render("jobs.html", jobs=found, next_page=next_page(found.dead.next_cursor), now=_now(), done=done())


@blueprint.post("/jobs/<id:job_id>/retry")
@page(scope="admin")
def retry_job(job_id: int) -> Any:
    """Queue a dead job again."""
    with services().database.write() as session:
        retried = job_retry.retry_job(services().queue, session, job_id, actor=who().actor)
    return redirect(url_for("dashboard.jobs", done="retried" if retried else "gone"), 303)


@blueprint.get("/destinations")
@page()
def destinations() -> Response:
    """The destinations and their health."""
    found = lists.destinations_health(services().database, services().destinations)
    unsuccessful = lists.unsuccessful_deliveries(services().database, services().destinations, LIMIT)
    return render("destinations.html", destinations=found, unsuccessful=unsuccessful, now=_now(), done=done())


@blueprint.post("/destinations/<name>/resume")
@page(scope="admin")
def resume_destination(name: str) -> Any:
    """Resume deliveries to a suspended destination."""
    if suspension.resume(services().database, services().queue, name, actor=who().actor) is None:
        abort(404, "No suspended destination has this name.")
    return redirect(url_for("dashboard.destinations", done="resumed"), 303)


@blueprint.get("/dnsimple")
@page()
def dnsimple() -> Response:
    """The quota, the webhook and the workers."""
    overview = load_overview(services())
    return render("dnsimple.html", overview=overview, now=overview.now)


@blueprint.get("/audit")
@page()
def audit() -> Response:
    """The audit trail, newest first."""
    found = lists.list_audit(services().database, cursor=cursor(), limit=LIMIT)
    details = {entry.id: json.loads(entry.detail) for entry in found.rows}
    return render("audit.html", page=found, details=details, next_page=next_page(found.next_cursor), now=_now())


def next_page(next_cursor: str | None) -> str | None:
    """The URL of the next page, with the same filters."""
    if next_cursor is None:
        return None
    given = {name: value for name, value in request.args.items() if name not in {"cursor", "done"}}
    return f"{request.path}?{urlencode(given | {'cursor': next_cursor})}"


def cursor() -> str | None:
    """The cursor of this page; None for the first one."""
    given = request.args.get("cursor")
    return None if given is None else given[:500]


def done() -> str:
    """The notice about the form that was just sent."""
    return DONE.get(request.args.get("done", ""), "")


def _list_query() -> ListQuery:
    given = {name: request.args.get(name, "").strip() or None for name in ("domain", "state")}
    return ListQuery.model_validate(given)


def _now() -> Any:
    with services().database.read() as session:
        return read_now(session)


def _weeks(forecast: RenewalForecast) -> list[list[dict[str, Any]]]:
    """Calendar weeks from Monday, beginning with the present one."""
    monday = forecast.today - timedelta(days=forecast.today.weekday())
    days = [monday + timedelta(days=at) for at in range(7 * WEEKS)]
    cells = [{"day": day, "count": forecast.days.get(day, 0), "past": day < forecast.today} for day in days]
    return [cells[at : at + 7] for at in range(0, len(cells), 7)]
