"""API tokens and the clients that they identify. A token is 256 random bits, shown once; only its SHA-256 is stored."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select, update

from app.audit import SYSTEM, record
from app.auth.scopes import grants
from app.db.clock import db_now
from app.db.database import Database
from app.db.models import ApiToken, new_id
from app.db.upsert import changed_rows
from app.errors import PermanentError

_PREFIX = "certcourier_"
_SHAPE = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}")
_SEEN_SECONDS = 60.0


class InvalidTokenRequestError(PermanentError):
    """A token that cannot be created; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Client:
    """The client that a token identifies. `domains` are patterns (`app.auth.scopes`), None for all."""

    id: str
    name: str
    scopes: tuple[str, ...]
    domains: tuple[str, ...] | None = None

    @property
    def actor(self) -> str:
        """The client's name in the audit trail."""
        return f"token:{self.id} {self.name}"

    def may(self, scope: str) -> bool:
        """Whether it has the scope."""
        return grants(self.scopes, scope)


def create_token(
    database: Database,
    name: str,
    scopes: Sequence[str],
    *,
    domains: Sequence[str] | None = None,
    valid_seconds: float | None = None,
    actor: str = SYSTEM,
) -> tuple[Client, str]:
    """Create a client and its token, which cannot be read again. Raises `InvalidTokenRequestError`."""
    if domains is not None and "admin" in scopes:
        raise InvalidTokenRequestError("a token with the `admin` scope cannot be restricted to domains")
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise InvalidTokenRequestError("a client's name must be 1 to 100 printable characters")
    token = _PREFIX + secrets.token_urlsafe(32)
    client = Client(new_id("tok"), name, tuple(scopes), None if domains is None else tuple(domains))
    with database.write() as session:
        session.add(
            ApiToken(
                id=client.id,
                name=name,
                digest=_digest(token),
                scopes=list(scopes),
                domains=None if domains is None else list(domains),
                expires_at=None if valid_seconds is None else db_now(valid_seconds),
            )
        )
        detail = {"name": name, "scopes": client.scopes, "domains": client.domains, "valid_seconds": valid_seconds}
        record(session, actor=actor, action="token.created", subject=client.id, detail=detail)
    return client, token


def authenticate(database: Database, token: str) -> Client | None:
    """The client of a valid token: known, not revoked and not expired.

    The lookup is by digest, so its duration reveals nothing about valid tokens. Text without the shape of a token
    costs no lookup.
    """
    if not _SHAPE.fullmatch(token):
        return None
    valid = (ApiToken.revoked_at.is_(None), or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > db_now()))
    with database.read() as session:
        row = session.scalar(select(ApiToken).where(ApiToken.digest == _digest(token), *valid))
        if row is None:
            return None
        not_seen_recently = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < db_now(-_SEEN_SECONDS))
        stale = session.scalar(select(ApiToken.id).where(ApiToken.id == row.id, not_seen_recently))
    if stale is not None:  # at most one write a minute, not one a request
        with database.write() as session:
            session.execute(update(ApiToken).where(ApiToken.id == row.id).values(last_used_at=db_now()))
    return Client(row.id, row.name, tuple(row.scopes), None if row.domains is None else tuple(row.domains))


def list_tokens(database: Database) -> list[ApiToken]:
    """All tokens including revoked ones, oldest first."""
    with database.read() as session:
        return list(session.scalars(select(ApiToken).order_by(ApiToken.id)))


def revoke_token(database: Database, token_id: str, *, actor: str = SYSTEM) -> bool:
    """Revoke a token, effective immediately on every host. False if no valid token has this ID."""
    with database.write() as session:
        statement = update(ApiToken).where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        revoked = changed_rows(session.execute(statement.values(revoked_at=db_now()))) == 1
        if revoked:
            record(session, actor=actor, action="token.revoked", subject=token_id)
    return revoked


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
