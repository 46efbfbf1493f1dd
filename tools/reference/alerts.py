"""Alert rules for Prometheus."""

from __future__ import annotations

from typing import Any

import yaml

from app.alerts.rules import KINDS
from tools.reference import markdown

_RULES = markdown.ROOT / "docs" / "prometheus" / "alerts.yml"


def page() -> str:
    """Each alert: what it means, what to do and its rule."""
    groups: list[dict[str, Any]] = yaml.safe_load(_RULES.read_text())["groups"]
    parts = [part for group in groups for rule in group["rules"] for part in _parts(rule)]
    return markdown.page(
        "Alerts",
        "[What to do when alerted](../howto/respond-to-alerts.md) says where to begin.",
        "## Of Certcourier itself",
        "What `flask alerts list` shows and messages tell. When each is raised, and what to do, is told in "
        "[operations](../operations.md#alerts).",
        markdown.table(("Kind", "Says"), [(f"`{kind}`", alert.one) for kind, alert in KINDS.items()]),
        "## Of Prometheus",
        "The rules of [`alerts.yml`](../prometheus/alerts.yml).",
        *parts,
    )


def _parts(rule: dict[str, Any]) -> list[str]:
    name = rule["alert"]
    says = {
        key: markdown.described(rule["annotations"].get(key), f"{key} of {name}") for key in ("summary", "description")
    }
    return [
        f"### {name}",
        f"{rule['labels']['severity'].capitalize()}, after {rule['for']}: {_plain(says['summary'])}.",
        _plain(says["description"]),
        f"```text\n{' '.join(rule['expr'].split())}\n```",
    ]


def _plain(text: str) -> str:
    """Prometheus' templates as what they stand for."""
    for template, word in {
        "{{ $value | humanizeDuration }}": "so long",
        "{{ $value }}": "Some",
        "{{ $labels.kind }}": "KIND",
        "{{ $labels.destination }}": "DESTINATION",
    }.items():
        text = text.replace(template, word)
    return text
