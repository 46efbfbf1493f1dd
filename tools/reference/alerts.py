"""The reference of alerts: Certcourier's own, and the rules for Prometheus."""

from __future__ import annotations

from typing import Any

import yaml

from app.alerts.rules import KINDS
from tools.reference import markdown

_RULES = markdown.ROOT / "docs" / "prometheus" / "alerts.yml"
_INTRO = "[Respond to alerts](../howto/respond-to-alerts.md) describes how to investigate."
_OWN = """\
Shown by the dashboard, `flask alerts list` and `GET /alerts`, and [sent as notifications](../operations.md#alerts)."""
_PROMETHEUS = """\
The rules of [`alerts.yml`](../prometheus/alerts.yml), evaluated by Prometheus from [metrics](metrics.md)."""
_DESCRIPTIONS = {
    "issuance_failed": (
        (
            "An order failed within the last seven days and has not been ordered again. Excludes errors of the client"
            " that were returned to it (unknown domain, plan limit, refused)."
        ),
        "Fix the cause shown in the order's `failure`, then order again.",
    ),
    "delivery_failing": (
        (
            "A delivery has failed permanently, or has been failing for `ALERT_DELIVERY_SECONDS`, and no newer "
            "certificate has been delivered in its place."
        ),
        "Fix the destination, then run `flask deliveries retry --destination NAME`.",
    ),
    "renewal_overdue": (
        (
            "A certificate with auto-renewal has not been renewed, although [its "
            "renewal](../architecture.md#renewals) is overdue: 22.5 days before a 90-day certificate expires, 2.25 "
            "days before a 6-day one."
        ),
        "Check auto-renewal, delegation and CAA of the domain: `flask doctor --domain DOMAIN`.",
    ),
    "endpoint_stale": (
        "An endpoint still serves another certificate after its grace period.",
        "Reload the server.",
    ),
    "endpoint_unreachable": (
        "An endpoint has not completed a TLS handshake since the end of its grace period.",
        "Check that the server runs and that the worker can connect to it.",
    ),
    "webhook_lost": (
        (
            "DNSimple had suppressed or deleted the webhook. It has been registered again, and missed certificates "
            "are being searched for. Clears after a day."
        ),
        "Find out why events were not answered with 200.",
    ),
    "webhook_unchecked": (
        "The registration of the webhook has not been verified for 15 minutes.",
        "See the last error of the job `register_webhook`.",
    ),
    "quota_low": (
        (
            "At most `ALERT_QUOTA_PERCENT` of the hour's API calls are left, and more than a quarter of the hour. "
            "Clears after two hours without."
        ),
        "Nothing during a wave of renewals; otherwise find out which other program uses the account.",
    ),
    "quota_stopped": (
        "DNSimple answered 429, so all calls are paused. Clears after 15 minutes without.",
        "Find out which other program uses the account.",
    ),
    "token_rejected": (
        "DNSimple rejects the API token with 401.",
        "Set a valid `DNSIMPLE_API_TOKEN`, then restart web server and worker.",
    ),
    "job_dead": (
        "A job has failed permanently. Excludes jobs whose order or delivery reports it.",
        "Fix the cause shown under `last_error`, then run `flask jobs retry ID`.",
    ),
    "worker_silent": (
        "A worker has sent no heartbeat for a minute, was not stopped, and none was started in its place.",
        "Check the worker and its host.",
    ),
}


def page() -> str:
    """Every alert: when it is raised and what to do."""
    groups: list[dict[str, Any]] = yaml.safe_load(_RULES.read_text())["groups"]
    parts = [part for group in groups for rule in group["rules"] for part in _parts(rule)]
    return markdown.page(
        "Alerts",
        _INTRO,
        "## Certcourier alerts",
        _OWN,
        markdown.table(("Kind", "Condition", "Remedy"), [_row(kind) for kind in KINDS]),
        "## Prometheus alerts",
        _PROMETHEUS,
        *parts,
    )


def _row(kind: str) -> tuple[str, str, str]:
    condition, remedy = _DESCRIPTIONS.get(kind, ("", ""))
    return f"`{kind}`", markdown.described(condition, f"the alert {kind}"), remedy


def _parts(rule: dict[str, Any]) -> list[str]:
    name = rule["alert"]
    texts = {
        key: markdown.described(rule["annotations"].get(key), f"{key} of {name}") for key in ("summary", "description")
    }
    return [
        f"### {name}",
        f"{rule['labels']['severity'].capitalize()}, after {rule['for']}: {_without_templates(texts['summary'])}.",
        _without_templates(texts["description"]),
        f"```text\n{' '.join(rule['expr'].split())}\n```",
    ]


def _without_templates(text: str) -> str:
    """Replace Prometheus' templates by placeholders."""
    for template, placeholder in {
        "{{ $value | humanizeDuration }}": "TIME",
        "{{ $value }}": "N",
        "{{ $labels.kind }}": "KIND",
        "{{ $labels.destination }}": "DESTINATION",
    }.items():
        text = text.replace(template, placeholder)
    return text
