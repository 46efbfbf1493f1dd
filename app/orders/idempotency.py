"""Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): a repeated request gets the first answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.database import Database
from app.db.models import IdempotencyKey
from app.db.upsert import insert_once
from app.domain_names import OrderRequest
from app.errors import PermanentError, RetryableError


class KeyReusedError(PermanentError):
    """The key was used with a different request before."""


class KeyInFlightError(RetryableError):
    """The first request with this key has not been answered yet."""


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key, and the digest of the request that it was sent with."""

    client_id: str
    text: str
    request_digest: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to the first request: an HTTP status and a JSON body."""

    order_id: str
    status: int
    body: dict[str, Any]


def digest_request(request: OrderRequest) -> str:
    """SHA-256 in hex: equal for equal orders, however they were written in the request."""
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()


def find_key(session: Session, key: Key) -> StoredAnswer | str | None:
    """The stored answer, or the ID of the order that is not answered yet, or None for a new key.

    Raises `KeyReusedError`.
    """
    row = session.get(IdempotencyKey, (key.client_id, key.text))
    if row is None:
        return None
    if row.request_digest != key.request_digest:
        raise KeyReusedError("this Idempotency-Key was used with a different request; use a new key for a new request")
    if row.status is None or row.body is None:
        return row.order_id
    return StoredAnswer(row.order_id, row.status, row.body)


def store_key(session: Session, key: Key, order_id: str) -> None:
    """Record a new key together with its order. Raises `KeyInFlightError` if another request has just done so."""
    stored = insert_once(
        session,
        IdempotencyKey,
        client_id=key.client_id,
        key=key.text,
        request_digest=key.request_digest,
        order_id=order_id,
    )
    if not stored:
        raise KeyInFlightError("another request with this Idempotency-Key arrived at the same time")


def store_answer(database: Database, client_id: str, key: str, *, status: int, body: dict[str, Any]) -> None:
    """Store the first answer; a later one never replaces it."""
    with database.write() as session:
        row = session.get(IdempotencyKey, (client_id, key), with_for_update=True)
        if row is not None and row.status is None:
            row.status, row.body = status, body
