"""The reference of problem types, found in the syntax tree of the code that creates them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from werkzeug.exceptions import default_exceptions

from tools.reference import markdown

_INTRO = """\
The `type` of a problem document (`application/problem+json`, RFC 9457) after the prefix `urn:certcourier:problem:`,
and the `type` of an order's `failure`. `detail` describes the case at hand and what to do. [Errors](../api.md#errors)
describes the other fields.

Status `order`: the order has failed, and its `failure` has this type. If DNSimple refuses an order during the
request, the request is answered with 400 and the same type; `order_id` is the failed order, and `dnsimple` has
DNSimple's status, message and request ID."""
_WHEN = {
    "bad-request": "The request cannot be parsed. Nothing was stored or sent to DNSimple.",
    "domain-not-in-account": "DNSimple does not know the domain in this account.",
    "domain-not-permitted": "The token may not order for this domain; `errors` names the field.",
    "domain-restricted-token": "The endpoint is not available to domain-restricted tokens.",
    "failed": "The order cannot be completed for another reason, given in `detail`.",
    "fetch-failed": "The certificate was issued, but it or its private key could not be fetched, verified or stored.",
    "idempotency-key-in-flight": "The first request with this key is still in progress; retry after `Retry-After`.",
    "idempotency-key-reused": "The key was used for a different order.",
    "insufficient-scope": "The token lacks the required scope.",
    "internal-server-error": "An unexpected error in Certcourier; the log has its cause under the `X-Request-Id`.",
    "invalid-event": "The body of a webhook request is not an event.",
    "invalid-request": "A field or the body is invalid. Nothing was stored or sent to DNSimple.",
    "issuance-failed": "DNSimple or the certification authority did not issue the certificate.",
    "method-not-allowed": "The path does not accept this method; `Allow` lists those it accepts.",
    "not-found": "Not found, not visible to the token, or a wrong webhook secret.",
    "not-needed": "Another order is already renewing the certificate. Nothing was purchased.",
    "payment-required": "DNSimple answered 402.",
    "plan-limit": "The plan of the DNSimple account does not include the certificate.",
    "polling-failed": "The certificate can no longer be read from DNSimple, so its issuance cannot be followed.",
    "refused": "DNSimple refused the fields of the order; `detail` names them.",
    "request-entity-too-large": "The body exceeds `MAX_BODY_BYTES`.",
    "service-unavailable": (
        "The order could not be stored; retry after `Retry-After`. With an `order_id`, the order is stored "
        "and will be processed."
    ),
    "token-not-permitted": "DNSimple answered 403 to the API token.",
    "too-many-requests": (
        "Too many requests with this token, or without a valid token from this address; retry after `Retry-After`."
    ),
    "unauthorized": "The request has no valid token.",
    "unknown-host": "The request is addressed to an unknown host; see `ALLOWED_HOSTS`.",
    "unsupported-media-type": "The content type of the body is not supported.",
}
_FROM_FLASK = {404, 405, 413}
_FOLDERS = ("auth", "web", "orders", "certificates")
_NO_ANSWER = "order"

type Problem = tuple[str, str, str]  # type, status, title


def page() -> str:
    """One row for each type, by name."""
    rows = [
        (f"`{kind}`", status, title, markdown.described(_WHEN.get(kind), f"the problem type {kind}"))
        for kind, status, title in sorted(all_problems())
    ]
    return markdown.page("Problem types", _INTRO, markdown.table(("Type", "Status", "Title", "When"), rows))


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
