"""Endpoints and documents of the HTTP interface, from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.web.api.openapi import openapi_document
from tools.reference import markdown

_INTRO = """\
The service describes itself at `/openapi.json` and as a page at `/docs`; this is the same document. How to order, and
what an answer means, is told in [the HTTP interface](../api.md)."""


def page() -> str:
    """Every endpoint, then every document."""
    api = openapi_document()
    parts = [
        part
        for path, operations in api["paths"].items()
        for method, operation in operations.items()
        for part in _operation(f"{method.upper()} {path}", operation)
    ]
    documents = [
        part for name, schema in sorted(api["components"]["schemas"].items()) for part in _document(name, schema)
    ]
    return markdown.page("Endpoints and documents", _INTRO, "## Endpoints", *parts, "## Documents", *documents)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### `{title}`"
    told = [markdown.described(operation.get("summary"), title) + ".", operation.get("description", "")]
    if operation.get("security") == []:
        told.append("Needs no token.")
    yield " ".join(part for part in told if part)
    if operation.get("parameters"):
        rows = [(f"`{one['name']}`", one["in"], one.get("description", "")) for one in operation["parameters"]]
        yield markdown.table(("Parameter", "In", "Meaning"), rows)
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        yield f"Body: {_type(next(iter(body['content'].values()))['schema'])}, as {kinds}."
    rows = [
        (status, _answers(answer), answer["description"]) for status, answer in sorted(operation["responses"].items())
    ]
    yield markdown.table(("Status", "Answers", "When"), rows)


def _answers(answer: dict[str, Any]) -> str:
    return ", ".join(f"{_type(content['schema'])} as `{kind}`" for kind, content in answer.get("content", {}).items())


def _document(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if schema.get("description"):
        yield markdown.described(schema["description"], name)
    required = set(schema.get("required", ()))
    rows = [
        (f"`{field}`", _type(one), "required" if field in required else _default(one), one.get("description", ""))
        for field, one in schema.get("properties", {}).items()
    ]
    yield markdown.table(("Field", "Type", "Default", "Meaning"), rows)


def _default(schema: dict[str, Any]) -> str:
    return f"`{schema['default']!r}`" if "default" in schema else ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if "properties" in schema and "data" in schema["properties"]:
        return f"`data`: {_type(schema['properties']['data'])}"
    kind = schema.get("type", "text")
    return (
        " or ".join(kind)
        if isinstance(kind, list)
        else str(kind) + (f" ({schema['format']})" if "format" in schema else "")
    )
