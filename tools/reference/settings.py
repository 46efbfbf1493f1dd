"""The reference of settings."""

from __future__ import annotations

from config import Settings
from tools.reference import markdown

_INTRO = """\
Each setting is an environment variable, or a line of the same name in `.env`. [Configuration](../configuration.md)
explains how settings are read, and which three are required to start."""


def page() -> str:
    """One row for each field of `config.Settings`."""
    rows = []
    for field, info in Settings.model_fields.items():
        name = field.upper()
        default = "required" if info.is_required() else _default(info.default)
        rows.append((f"`{name}`", default, markdown.described(info.description, f"the setting {name}")))
    return markdown.page("Settings", _INTRO, markdown.table(("Variable", "Default", "Meaning"), rows))


def _default(value: object) -> str:
    if value in {None, "", ()}:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(f'{part:g}' for part in value)}`" if isinstance(value, tuple) else f"`{value}`"
