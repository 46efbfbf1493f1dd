"""Dashboard sessions: a token is exchanged for a short-lived random ID, so that the browser does not keep the token.

Only the ID's SHA-256 is stored. A session ends when it expires, on sign-out, and when its token is revoked or expires.
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
from app.db.database import Database
from app.db.models import ApiToken, DashboardSession
from app.errors import PermanentError
from config import Settings

_SHAPE = re.compile(r"[A-Za-z0-9_-]{43}")


class MissingReadScopeError(PermanentError):
    """The token is valid but lacks the `read` scope."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """An authenticated session. `form_secret` proves that a form was sent from one of its pages."""

    client: Client
    form_secret: str

    def has_sent(self, form_secret: str) -> bool:
        """Whether the form carries this session's secret."""
        return hmac.compare_digest(self.form_secret.encode(), form_secret.encode(errors="replace"))


def sign_in(settings: Settings, database: Database, token: str) -> str | None:
    """Create a session and return its ID, which cannot be read again; None for an invalid token.

    Raises `MissingReadScopeError` for a valid token without the `read` scope.
    """
    client = authenticate(database, token.strip())
    if client is None:
        return None
    if not client.may("read"):
        raise MissingReadScopeError(f"The token {client.name} is valid but lacks the `read` scope.")
    session_id = secrets.token_urlsafe(32)
    with database.write() as session:
        lifetime = 60.0 * settings.dashboard_session_minutes
        session.add(DashboardSession(digest=_digest(session_id), token_id=client.id, expires_at=db_now(lifetime)))
        record(session, actor=client.actor, action="dashboard.signed_in", subject=client.id)
    return session_id


def find_session(database: Database, session_id: str) -> SignedIn | None:
    """The session, if neither it nor its token has expired or was revoked. The lookup is by digest."""
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
    with database.read() as session:
        row = session.scalar(query)
    if row is None:
        return None
    client = Client(row.id, row.name, tuple(row.scopes), None if row.domains is None else tuple(row.domains))
    return SignedIn(client, hashlib.sha256(b"form:" + session_id.encode()).hexdigest()) if client.may("read") else None


def sign_out(database: Database, session_id: str) -> None:
    """End the session, effective immediately on every host."""
    with database.write() as session:
        session.execute(delete(DashboardSession).where(DashboardSession.digest == _digest(session_id)))


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
