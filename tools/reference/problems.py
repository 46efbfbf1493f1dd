"""Types of problems, found where the code makes them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from werkzeug.exceptions import default_exceptions

from tools.reference import markdown

_INTRO = """\
`type` of an `application/problem+json` answer, after `urn:certcourier:problem:`, and of an order's `failure`. `detail`
says what is wrong in the case at hand and what to do; when a client meets which is told in
[the HTTP interface](../api.md#errors).

Status `order`: found after the request was answered, or DNSimple's refusal, which is a 400; the order has it as its
`failure`."""
_ALWAYS = {404, 405, 413}  # Flask's own
_FOLDERS = ("web", "orders", "certificates")
_NO_ANSWER = "order"

type Problem = tuple[str, str, str]  # type, status, title


def page() -> str:
    """All types, by name."""
    rows = [(f"`{kind}`", status, title) for kind, status, title in sorted(all_problems())]
    return markdown.page(
        "Types of problems",
        _INTRO,
        markdown.table(("Type", "Status", "Title"), rows),
    )


def all_problems() -> set[Problem]:
    """Type, status and title of each that the code can make."""
    found = {_http(status) for status in _ALWAYS}
    for folder in _FOLDERS:
        for file in (markdown.ROOT / "app" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                found |= set(_made_by(node))
    return found


def _made_by(node: ast.AST) -> Iterator[Problem]:
    match node:
        case ast.Call(func=ast.Name(id="problem" | "problem_document"), args=[status, kind, title, *_]):
            if isinstance(kind, ast.Constant) and isinstance(status, ast.Constant):
                yield str(kind.value), str(status.value), _text(title)
        case ast.Call(func=ast.Name(id="abort"), args=[ast.Constant(value=int(status)), *_]):
            yield _http(status)
        case ast.Dict(keys=[ast.Constant(value="type"), ast.Constant(value="title"), *_], values=[kind, title, *_]):
            if isinstance(kind, ast.Constant):
                yield str(kind.value), _NO_ANSWER, _text(title)
        case ast.Return(value=ast.Tuple(elts=[ast.Constant(value=str(kind)), ast.Constant(value=str(title)), _])):
            yield kind, _NO_ANSWER, title


def _text(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "(as the case may be)"


def _http(status: int) -> Problem:
    name = default_exceptions[status]().name
    return name.lower().replace(" ", "-").replace("'", ""), str(status), name
