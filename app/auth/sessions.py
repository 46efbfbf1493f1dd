"""Sessions of the dashboard: a token is exchanged for a short-lived random ID, so that no browser keeps the token.

The database holds the ID's SHA-256. A session ends with its time, by signing out, and with its token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, or_, select

from app.audit import record
from app.auth.tokens import Client, authenticate
from app.db.clock import db_now
from app.db.models import ApiToken, DashboardSession
from app.errors import PermanentError
from app.services import Services

_SHAPE = re.compile(r"[A-Za-z0-9_-]{43}")


class MayNotReadError(PermanentError):
    """The token is valid, but not for the pages."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whose session it is. `form_secret` proves that a form came from one of its pages."""

    client: Client
    form_secret: str

    def has_sent(self, form_secret: str) -> bool:
        """Whether a form carries the session's own secret."""
        return hmac.compare_digest(self.form_secret.encode(), form_secret.encode(errors="replace"))


def sign_in(services: Services, token: str) -> str | None:
    """A new session's ID, which cannot be read again, or None if no valid token was given.

    Raises `MayNotReadError` for a valid one that may not look at anything.
    """
    client = authenticate(services, token.strip())
    if client is None:
        return None
    if not client.may("read"):
        raise MayNotReadError(f"The token {client.name} is valid, but has no scope read.")
    session_id = secrets.token_urlsafe(32)
    with services.database.write() as session:
        lasts = 60.0 * services.settings.dashboard_session_minutes
        session.add(DashboardSession(digest=_digest(session_id), token_id=client.id, expires_at=db_now(lasts)))
        record(session, actor=client.actor, action="dashboard.signed_in", subject=client.id)
    return session_id


def find_session(services: Services, session_id: str) -> SignedIn | None:
    """The session if it goes on and its token is still valid: one look-up by the digest of 256 random bits."""
    if not _SHAPE.fullmatch(session_id):
        return None
    query = (
        select(ApiToken)
        .join(DashboardSession, DashboardSession.token_id == ApiToken.id)
        .where(
            DashboardSession.digest == _digest(session_id),
            DashboardSession.expires_at > db_now(),
            ApiToken.revoked_at.is_(None),
            or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > db_now()),
        )
    )
    with services.database.read() as session:
        row = session.scalar(query)
    if row is None:
        return None
    client = Client(row.id, row.name, tuple(row.scopes), None if row.domains is None else tuple(row.domains))
    return SignedIn(client, hashlib.sha256(b"form:" + session_id.encode()).hexdigest()) if client.may("read") else None


def sign_out(services: Services, session_id: str) -> None:
    """End the session on every host at once."""
    with services.database.write() as session:
        session.execute(delete(DashboardSession).where(DashboardSession.digest == _digest(session_id)))


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
