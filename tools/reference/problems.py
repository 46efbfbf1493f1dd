"""The reference of problem types, found in the syntax tree of the code that creates them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from werkzeug.exceptions import default_exceptions

from tools.reference import markdown

_INTRO = """\
The `type` of a problem document (`application/problem+json`, RFC 9457) after the prefix `urn:certcourier:problem:`,
and the `type` of an order's `failure`. `detail` describes the case at hand and what to do. [Errors](../api.md#errors)
lists when a client receives which.

Status `order`: the order has failed, and its `failure` has this type. If DNSimple refuses an order during the
request, the request is answered with 400 and the same type."""
_FROM_FLASK = {404, 405, 413}
_FOLDERS = ("auth", "web", "orders", "certificates")
_NO_ANSWER = "order"

type Problem = tuple[str, str, str]  # type, status, title


def page() -> str:
    """One row for each type, by name."""
    rows = [(f"`{kind}`", status, title) for kind, status, title in sorted(all_problems())]
    return markdown.page(
        "Problem types",
        _INTRO,
        markdown.table(("Type", "Status", "Title"), rows),
    )


def all_problems() -> set[Problem]:
    """Type, status and title of every problem that the code can create."""
    found = {_http(status) for status in _FROM_FLASK}
    for folder in _FOLDERS:
        for file in (markdown.ROOT / "app" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                found |= set(_created_by(node))
    return found


def _created_by(node: ast.AST) -> Iterator[Problem]:
    match node:
        case ast.Call(func=ast.Name(id="problem" | "problem_document"), args=[status, kind, title, *_]):
            if isinstance(kind, ast.Constant) and isinstance(status, ast.Constant):
                yield str(kind.value), str(status.value), _text(title)
        case ast.Call(func=ast.Name(id="AccessDeniedError"), args=[ast.Constant(value=str(kind)), title, _]):
            yield kind, "403", _text(title)
        case ast.Call(func=ast.Name(id="abort"), args=[ast.Constant(value=int(status)), *_]):
            yield _http(status)
        case ast.Dict(keys=[ast.Constant(value="type"), ast.Constant(value="title"), *_], values=[kind, title, *_]):
            if isinstance(kind, ast.Constant):
                yield str(kind.value), _NO_ANSWER, _text(title)
        case ast.Return(value=ast.Tuple(elts=[ast.Constant(value=str(kind)), ast.Constant(value=str(title)), _])):
            yield kind, _NO_ANSWER, title


def _text(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "(depends on the cause)"


def _http(status: int) -> Problem:
    name = default_exceptions[status]().name
    return name.lower().replace(" ", "-").replace("'", ""), str(status), name
