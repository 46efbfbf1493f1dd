"""Clients of our API. A token is 256 random bits, shown once; the database holds its SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select, update

from app.audit import SYSTEM, record
from app.db.clock import db_now
from app.db.models import ApiToken, new_id
from app.db.upsert import changed_rows
from app.errors import PermanentError
from app.services import Services

SCOPES = ("issue", "read", "admin")
_PREFIX = "certcourier_"
_SHAPE = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}")
_SEEN_SECONDS = 60.0


class UnfitTokenError(PermanentError):
    """A token that nobody should have; the message says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a token stands for. `domains` are patterns (`app.auth.scopes`), None for all."""

    id: str
    name: str
    scopes: tuple[str, ...]
    domains: tuple[str, ...] | None = None

    @property
    def actor(self) -> str:
        """Who this is in the audit trail."""
        return f"token:{self.id} {self.name}"

    def may(self, scope: str) -> bool:
        """Whether it has the scope; `admin` implies the others, since who may do everything may order and read too."""
        return scope in self.scopes or "admin" in self.scopes


def create_token(
    services: Services,
    name: str,
    scopes: Sequence[str],
    *,
    domains: Sequence[str] | None = None,
    valid_seconds: float | None = None,
    actor: str = SYSTEM,
) -> tuple[Client, str]:
    """A new client and its token, which cannot be read again. Raises `UnfitTokenError`."""
    if domains is not None and "admin" in scopes:
        raise UnfitTokenError("scope admin sees and does everything, so it cannot be limited to domains")
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise UnfitTokenError("a client's name must be 1 to 100 printable characters")
    token = _PREFIX + secrets.token_urlsafe(32)
    client = Client(new_id("tok"), name, tuple(scopes), None if domains is None else tuple(domains))
    with services.database.write() as session:
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


def authenticate(services: Services, token: str) -> Client | None:
    """The client of a token that exists, is not revoked and has not expired.

    Found by the digest of 256 random bits: how long the look-up takes tells nothing about any valid token. What does
    not even look like a token costs no look-up.
    """
    if not _SHAPE.fullmatch(token):
        return None
    valid = (ApiToken.revoked_at.is_(None), or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > db_now()))
    with services.database.read() as session:
        row = session.scalar(select(ApiToken).where(ApiToken.digest == _digest(token), *valid))
        if row is None:
            return None
        unseen = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < db_now(-_SEEN_SECONDS))
        stale = session.scalar(select(ApiToken.id).where(ApiToken.id == row.id, unseen))
    if stale is not None:  # at most one write a minute, not one a request
        with services.database.write() as session:
            session.execute(update(ApiToken).where(ApiToken.id == row.id).values(last_used_at=db_now()))
    return Client(row.id, row.name, tuple(row.scopes), None if row.domains is None else tuple(row.domains))


def list_tokens(services: Services) -> list[ApiToken]:
    """All tokens, the revoked ones too, oldest first."""
    with services.database.read() as session:
        return list(session.scalars(select(ApiToken).order_by(ApiToken.id)))


def revoke_token(services: Services, token_id: str, *, actor: str = SYSTEM) -> bool:
    """Make a token worthless at once, on every host. False if there is no such valid token."""
    with services.database.write() as session:
        revoked = update(ApiToken).where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        done = changed_rows(session.execute(revoked.values(revoked_at=db_now()))) == 1
        if done:
            record(session, actor=actor, action="token.revoked", subject=token_id)
    return done


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
