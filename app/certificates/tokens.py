"""Clients of our API. A token is 256 random bits, shown once; the database holds its SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select, update

from app.services import Services
from app.storage.clock import db_now
from app.storage.models import ApiToken, new_id
from app.storage.statements import changed_rows

SCOPES = ("issue", "read", "admin")
_PREFIX = "certcourier_"
_SEEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a token stands for."""

    id: str
    name: str
    scopes: tuple[str, ...]


def create_token(services: Services, name: str, scopes: Sequence[str]) -> tuple[Client, str]:
    """A new client and its token, which cannot be read again."""
    token = _PREFIX + secrets.token_urlsafe(32)
    client = Client(new_id("tok"), name, tuple(scopes))
    with services.database.write() as session:
        session.add(ApiToken(id=client.id, name=name, digest=_digest(token), scopes=list(scopes)))
    return client, token


def authenticate(services: Services, token: str) -> Client | None:
    """The client of a token that exists and is not revoked.

    Found by the digest of 256 random bits: how long the look-up takes tells nothing about any valid token.
    """
    with services.database.read() as session:
        row = session.scalar(select(ApiToken).where(ApiToken.digest == _digest(token), ApiToken.revoked_at.is_(None)))
        if row is None:
            return None
        unseen = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < db_now(-_SEEN_SECONDS))
        stale = session.scalar(select(ApiToken.id).where(ApiToken.id == row.id, unseen))
    if stale is not None:  # at most one write a minute, not one a request
        with services.database.write() as session:
            session.execute(update(ApiToken).where(ApiToken.id == row.id).values(last_used_at=db_now()))
    return Client(row.id, row.name, tuple(row.scopes))


def list_tokens(services: Services) -> list[ApiToken]:
    """All tokens, the revoked ones too, oldest first."""
    with services.database.read() as session:
        return list(session.scalars(select(ApiToken).order_by(ApiToken.id)))


def revoke_token(services: Services, token_id: str) -> bool:
    """Make a token worthless at once, on every host. False if there is no such valid token."""
    with services.database.write() as session:
        revoked = update(ApiToken).where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        return changed_rows(session.execute(revoked.values(revoked_at=db_now()))) == 1


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
