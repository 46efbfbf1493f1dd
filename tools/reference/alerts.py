"""The reference of alerts: Certcourier's own, and the rules for Prometheus."""

from __future__ import annotations

from typing import Any

import yaml

from app.alerts.rules import RULES
from tools.reference import markdown

_PROMETHEUS_RULES = markdown.ROOT / "docs" / "prometheus" / "alerts.yml"
_INTRO = "[Respond to alerts](../howto/respond-to-alerts.md) describes how to investigate."
_OWN = """\
Shown by the dashboard, `certcourier alerts list`, `GET /alerts`, `certcourier doctor` and the metric
`certcourier_alerts`, and [sent as notifications](../operations.md#alerts). Each alert names its subject and its
remedy."""
_PROMETHEUS = """\
The rules of [`alerts.yml`](../prometheus/alerts.yml), evaluated by Prometheus from [metrics](metrics.md)."""


def page() -> str:
    """Every alert: when it is raised and what to do."""
    groups: list[dict[str, Any]] = yaml.safe_load(_PROMETHEUS_RULES.read_text())["groups"]
    parts = [part for group in groups for rule in group["rules"] for part in _parts(rule)]
    return markdown.page(
        "Alerts",
        _INTRO,
        "## Certcourier alerts",
        _OWN,
        markdown.table(
            ("Kind", "Severity", "Title", "Condition"),
            [(f"`{rule.kind}`", rule.severity, rule.one, rule.condition) for rule in RULES.values()],
        ),
        "## Prometheus alerts",
        _PROMETHEUS,
        *parts,
    )


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
