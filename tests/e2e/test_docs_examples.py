"""Pages marked `<!-- runs -->` are executed as written, against a simulated DNSimple."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from tests.support.checkout import Checkout
from tests.support.stack import ROOT

pytestmark = pytest.mark.timeout(240)

PAGES = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.read_text().startswith("<!-- runs -->")
]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout whose environment has none of the caller's settings."""
    settings = {name.upper() for name in Settings.model_fields}
    made = Checkout(tmp_path, {name: value for name, value in os.environ.items() if name not in settings})
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_works_as_written(page: Path, checkout: Checkout) -> None:
    checkout.run((ROOT / page).read_text())


def test_a_command_without_settings_suggests_the_settings_of_the_demo(checkout: Checkout) -> None:
    output = checkout.type("! .venv/bin/certcourier jobs list")
    assert "DNSIMPLE_API_TOKEN: is missing" in output
    assert "var/demo.env" not in output
    checkout.type("mkdir var && touch var/demo.env")
    assert "certcourier -e var/demo.env" in checkout.type("! .venv/bin/certcourier jobs list")
