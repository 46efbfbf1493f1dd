"""The reference of the destinations file."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.destinations.base import DestinationConfig
from app.destinations.registry import KINDS, all_kinds
from app.endpoints.registry import Endpoint
from tools.reference import markdown

_INTRO = """\
The file named by `DESTINATIONS_FILE` is TOML with one `[[destination]]` table per destination.
[Destinations](../destinations.md) explains what each kind does."""
_ENDPOINTS = """\
One `[[endpoint]]` table per endpoint, in the same file. See
[verifying what is served](../destinations.md#endpoints-verifying-what-is-served)."""
_SHARED = [*DestinationConfig.model_fields]


def page() -> str:
    """The fields of every destination, then those of each kind."""
    parts = [_INTRO, "## Common fields", _fields("every destination", DestinationConfig, _SHARED)]
    for kind in KINDS:
        config = all_kinds()[kind].load().Config
        own = [name for name in config.model_fields if name not in {*_SHARED, "kind"}]
        parts += [f"## {kind}", _fields(kind, config, own)]
    endpoint = _fields("an endpoint", Endpoint, [*Endpoint.model_fields])
    return markdown.page("Destination and endpoint fields", *parts, "## Endpoints", _ENDPOINTS, endpoint)


def _fields(kind: str, config: type[BaseModel], names: list[str]) -> str:
    rows = [_row(kind, name, config.model_fields[name]) for name in names]
    return markdown.table(("Field", "Default", "Meaning"), rows)


def _row(kind: str, name: str, field: FieldInfo) -> tuple[str, str, str]:
    meaning = markdown.described(field.description, f"field {name} of {kind}")
    if get_origin(field.annotation) is Literal:
        meaning += " One of " + ", ".join(f"`{choice}`" for choice in get_args(field.annotation)) + "."
    default = "required" if field.is_required() else _toml(field.get_default(call_default_factory=True))
    return f"`{name}`", default, meaning


def _toml(value: Any) -> str:
    if value is None or value == {} or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"`{value:g}`"
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f'`"{value}"`'
