"""Fields of the destinations file."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.destinations.base import DestinationConfig
from app.destinations.registry import KINDS, all_kinds
from app.endpoints.registry import Endpoint
from tools.reference import markdown

_INTRO = """\
One `[[destination]]` table each, in the TOML file that `DESTINATIONS_FILE` names. What the kinds do is told in
[destinations](../destinations.md)."""
_ENDPOINTS = """\
One `[[endpoint]]` table each, in the same file; see
[proof that it is served](../destinations.md#endpoints-proof-that-it-is-served)."""
_SHARED = [*DestinationConfig.model_fields]


def page() -> str:
    """What every destination may say, then each kind."""
    parts = [
        _INTRO,
        "## Every destination",
        _fields("every destination", DestinationConfig, _SHARED),
    ]
    for kind in KINDS:
        config = all_kinds()[kind].load().Config
        own = [name for name in config.model_fields if name not in {*_SHARED, "kind"}]
        parts += [f"## {kind}", _fields(kind, config, own)]
    endpoint = _fields("an endpoint", Endpoint, [*Endpoint.model_fields])
    return markdown.page("Fields of destinations and endpoints", *parts, "## Endpoints", _ENDPOINTS, endpoint)


def _fields(kind: str, config: type[BaseModel], names: list[str]) -> str:
    rows = [_row(kind, name, config.model_fields[name]) for name in names]
    return markdown.table(("Field", "Default", "Meaning"), rows)


def _row(kind: str, name: str, field: FieldInfo) -> tuple[str, str, str]:
    meaning = markdown.described(field.description, f"field {name} of {kind}")
    if get_origin(field.annotation) is Literal:
        meaning += " One of " + ", ".join(f"`{choice}`" for choice in get_args(field.annotation)) + "."
    return f"`{name}`", "required" if field.is_required() else _toml(field.default), meaning


def _toml(value: Any) -> str:
    if value is None or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"`{value:g}`"
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(f'"{one}"' for one in value) + "]`"
    return f'`"{value}"`'
