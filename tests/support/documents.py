"""The contents of the documentation, for tests that compare it with the code."""

from __future__ import annotations

import re
from pathlib import Path

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"


def documented_metrics() -> set[str]:
    return set(re.findall(r"^\| `(certcourier_[a-z_]+)` \|", METRICS_PAGE.read_text(), re.MULTILINE))
