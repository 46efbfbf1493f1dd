"""The reference of the HTTP API, from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.web.api.openapi import openapi_document
from tools.reference import markdown

_INTRO = """\
The same content as the OpenAPI document, which the service publishes at `/openapi.json` and as a page at `/docs`.
[The HTTP API](../api.md) explains how to place orders and how to interpret the answers."""


def page() -> str:
    """Every endpoint, then every schema."""
    api = openapi_document()
    parts = [
        part
        for path, operations in api["paths"].items()
        for method, operation in operations.items()
        for part in _operation(f"{method.upper()} {path}", operation)
    ]
    schemas = [part for name, schema in sorted(api["components"]["schemas"].items()) for part in _schema(name, schema)]
    return markdown.page("HTTP endpoints", _INTRO, "## Endpoints", *parts, "## Schemas", *schemas)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### `{title}`"
    texts = [markdown.described(operation.get("summary"), title) + ".", operation.get("description", "")]
    if operation.get("security") == []:
        texts.append("Requires no token.")
    yield " ".join(part for part in texts if part)
    if operation.get("parameters"):
        rows = [
            (f"`{parameter['name']}`", parameter["in"], parameter.get("description", ""))
            for parameter in operation["parameters"]
        ]
        yield markdown.table(("Parameter", "In", "Meaning"), rows)
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        yield f"Request body: {_type(next(iter(body['content'].values()))['schema'])}, as {kinds}."
    rows = [
        (status, _response(answer), answer["description"]) for status, answer in sorted(operation["responses"].items())
    ]
    yield markdown.table(("Status", "Response", "Meaning"), rows)


def _response(answer: dict[str, Any]) -> str:
    return ", ".join(f"{_type(content['schema'])} as `{kind}`" for kind, content in answer.get("content", {}).items())


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if "enum" in schema:
        yield f"One of {_type(schema)}."
        return
    if schema.get("description"):
        yield markdown.described(schema["description"], name)
    required = set(schema.get("required", ()))
    rows = [
        (f"`{field}`", _type(value), "required" if field in required else _default(value), value.get("description", ""))
        for field, value in schema.get("properties", {}).items()
    ]
    yield markdown.table(("Field", "Type", "Default", "Meaning"), rows)


def _default(schema: dict[str, Any]) -> str:
    return f"`{schema['default']!r}`" if "default" in schema else ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for combination in ("anyOf", "oneOf"):
        if combination in schema:
            return " or ".join(_type(option) for option in schema[combination])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if "properties" in schema and "data" in schema["properties"]:
        return f"`data`: {_type(schema['properties']['data'])}"
    kind = schema.get("type", "string")
    return (
        " or ".join(kind)
        if isinstance(kind, list)
        else str(kind) + (f" ({schema['format']})" if "format" in schema else "")
    )
