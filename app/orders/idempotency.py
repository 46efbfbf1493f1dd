"""Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): the same request again gets the same answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.models import IdempotencyKey
from app.db.upsert import insert_once
from app.domain_names import OrderRequest
from app.errors import PermanentError, RetryableError
from app.services import Services


class KeyReusedError(PermanentError):
    """The key came with another request before."""


class KeyInFlightError(RetryableError):
    """The first request with this key has not been answered yet."""


@dataclass(frozen=True, slots=True)
class Key:
    """One client's key, and the digest of the request that came with it."""

    client_id: str
    text: str
    request_digest: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What the first request was answered: an HTTP status and a JSON body."""

    order_id: str
    status: int
    body: dict[str, Any]


def digest_request(request: OrderRequest) -> str:
    """The same for the same order, however it was spelled on the wire. SHA-256, hex."""
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()


def find_key(session: Session, key: Key) -> StoredAnswer | str | None:
    """The stored answer, or the ID of the order whose answer is still owed, or None for a new key.

    Raises `KeyReusedError`.
    """
    row = session.get(IdempotencyKey, (key.client_id, key.text))
    if row is None:
        return None
    if row.request_digest != key.request_digest:
        raise KeyReusedError("this Idempotency-Key came with another request before; use a new key for a new request")
    if row.status is None or row.body is None:
        return row.order_id
    return StoredAnswer(row.order_id, row.status, row.body)


def keep_key(session: Session, key: Key, order_id: str) -> None:
    """Put a new key on record together with its order. Raises `KeyInFlightError` if another request was faster."""
    kept = insert_once(
        session,
        IdempotencyKey,
        client_id=key.client_id,
        key=key.text,
        request_digest=key.request_digest,
        order_id=order_id,
    )
    if not kept:
        raise KeyInFlightError("another request with this Idempotency-Key came at the same time")


def remember_answer(services: Services, client_id: str, key: str, *, status: int, body: dict[str, Any]) -> None:
    """Keep the first answer; a later one never replaces it."""
    with services.database.write() as session:
        row = session.get(IdempotencyKey, (client_id, key), with_for_update=True)
        if row is not None and row.status is None:
            row.status, row.body = status, body
