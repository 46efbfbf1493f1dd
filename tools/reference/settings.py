"""All settings."""

from __future__ import annotations

from config import settings_table
from tools.reference import markdown


def page() -> str:
    """The table of `config.Settings`."""
    return markdown.page(
        "Settings",
        "Environment variables, or lines of the same names in `.env`; how they are read is told in "
        "[configuration](../configuration.md).",
        settings_table(),
    )
