"""docs/prometheus/ uses only metrics that exist, and its alert rules fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.metrics import ProcessMetrics
from tests.support.documents import documented_metrics

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "prometheus"
_NAME = re.compile(r"\bcertcourier_[a-z_]+")


def series() -> set[str]:
    """What Prometheus will have: histograms as three series."""
    histograms = {metric.name for metric in ProcessMetrics().registry.collect() if metric.type == "histogram"}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    return (documented_metrics() - histograms) | parts


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool: install Debian's package `prometheus`")
    return subprocess.run([program, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)


def test_the_alert_rules_are_sound() -> None:
    checked = promtool("check", "rules", "alerts.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_alert_rules_fire_when_they_should_and_only_then() -> None:
    tested = promtool("test", "rules", "alerts-test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("file", ["alerts.yml", "alerts-test.yml"])
def test_alert_rules_use_metrics_that_exist(file: str) -> None:
    used = set(_NAME.findall((FOLDER / file).read_text()))
    assert used - series() - documented_metrics() == set()


def test_the_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for query in queries for name in _NAME.findall(query)}
    assert used
    assert used - series() == set()
