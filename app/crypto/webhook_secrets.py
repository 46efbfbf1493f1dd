"""The secrets in the webhook's path: the current one, and older ones that are still accepted for a while.

They are stored encrypted in the database, so that every host accepts all of them and any host can register the webhook.
Secrets have 256 random bits, so their digests reveal nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterable

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.crypto.encryption import Encryptor, key_id_of_ciphertext
from app.crypto.keyring import encryption_key_id
from app.db.clock import db_now, read_now
from app.db.database import Database
from app.db.models import WebhookSecret
from app.db.upsert import insert_once
from app.errors import RetryableError

# How long a process relies on what it has read: for an accepted secret, and for an unknown one.
_KNOWN_SECONDS = 30.0
_UNKNOWN_SECONDS = 1.0
# By then every process knows a new secret when the first event arrives with it.
PROPAGATION_SECONDS = 2 * _UNKNOWN_SECONDS
# DNSimple retries an event for two hours (contract, section 3.4); the rest is a margin for clocks.
RETRY_WINDOW_SECONDS = 2 * 3600 + 900.0
_ATTEMPTS = 5
_IS_CURRENT = WebhookSecret.current.is_(True)


def digest_of(secret: str) -> str:
    """The digest of a secret, which is stored in clear."""
    return hashlib.sha256(b"webhook" + secret.encode(errors="surrogateescape")).hexdigest()


class WebhookSecrets:
    """Thread-safe and fork-safe; caches for half a minute which secrets are accepted."""

    def __init__(
        self,
        database: Database,
        encryptor: Encryptor,
        *,
        given: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`given` is the secret that the operator has configured, if any."""
        self._database = database
        self._encryptor = encryptor
        self._given = given
        self._clock = clock
        self._lock = threading.Lock()
        self._accepted: tuple[bytes, ...] = ()
        self._read_at: float | None = None

    def accepts(self, secret: str) -> bool:
        """Whether events with this secret are accepted, as of the last read.

        Compares in constant time. A flood of wrong secrets causes one query a second.
        """
        digest = digest_of(secret).encode()
        if self._older_than(_KNOWN_SECONDS):
            self._reload(_KNOWN_SECONDS)
        if _is_among(digest, self._accepted):
            return True
        if self._older_than(_UNKNOWN_SECONDS):
            self._reload(_UNKNOWN_SECONDS)
        return _is_among(digest, self._accepted)

    def current(self) -> str:
        """The current secret. Raises `KeyNotHeldError` or `DecryptionError` if it cannot be decrypted here."""
        self.settle()
        with self._database.read() as session:
            row = session.scalars(select(WebhookSecret).where(_IS_CURRENT)).one()
        return self._encryptor.decrypt(_owner(row.digest), row.encrypted)

    def current_digest(self) -> str:
        """The digest of the current secret, which needs no key."""
        self.settle()
        with self._database.read() as session:
            return session.scalars(select(WebhookSecret.digest).where(_IS_CURRENT)).one()

    def settle(self) -> None:
        """Take up the configured secret if it is new, or make one if there is none.

        A secret that was rotated out does not come back by being configured still.
        """
        for _ in range(_ATTEMPTS):  # another process may be faster
            with self._database.read() as session:
                known = set(session.scalars(select(WebhookSecret.digest)))
            if known and (self._given is None or digest_of(self._given) in known):
                return
            with self._database.write() as session:
                if not self._add(session, self._given or secrets.token_urlsafe(32)):
                    session.rollback()  # else no secret would be current
        raise RetryableError("other processes keep changing the webhook's secret: configure the same one on all hosts")

    def rotate(self, session: Session) -> str:
        """Create a new secret in the caller's transaction; the old one stays accepted. Returns the new one's digest."""
        secret = secrets.token_urlsafe(32)
        if not self._add(session, secret):
            raise RetryableError("another process is changing the webhook's secret: try again")
        return digest_of(secret)

    def seconds_until_known(self) -> float:
        """How long to wait before the current secret can be registered at DNSimple. 0 if it is the only one."""
        with self._database.read() as session:
            rows = session.scalars(select(WebhookSecret)).all()
            newest = next(row.created_at for row in rows if row.current)
            age = (read_now(session) - newest).total_seconds()
        return max(0.0, PROPAGATION_SECONDS - age) if len(rows) > 1 else 0.0

    def expire_others(self, session: Session, digest: str) -> None:
        """Let all other secrets expire after DNSimple's retries: it now posts only to the URL of this digest."""
        old = update(WebhookSecret).where(WebhookSecret.current.is_(None), WebhookSecret.digest != digest)
        unlimited = old.where(WebhookSecret.accepted_until.is_(None))
        session.execute(unlimited.values(accepted_until=db_now(RETRY_WINDOW_SECONDS)))

    def rows(self) -> list[WebhookSecret]:
        """All secrets ever used, the newest first."""
        with self._database.read() as session:
            newest_first = select(WebhookSecret).order_by(
                WebhookSecret.current.desc().nulls_last(), WebhookSecret.created_at.desc()
            )
            return list(session.scalars(newest_first))

    def is_outdated(self) -> bool:
        """Whether the configured secret has been rotated out."""
        return self._given is not None and digest_of(self._given) != self.current_digest()

    def reencrypt(self, session: Session) -> None:
        """Encrypt all secrets that can be decrypted here with the primary key, in the caller's transaction."""
        key_id = encryption_key_id(session)
        for row in session.scalars(select(WebhookSecret).with_for_update()):
            used = key_id_of_ciphertext(row.encrypted)
            if used != key_id and self._encryptor.holds(used):
                secret = self._encryptor.decrypt(_owner(row.digest), row.encrypted)
                row.encrypted = self._encryptor.encrypt(_owner(row.digest), secret, key_id=key_id)

    def _add(self, session: Session, secret: str) -> bool:
        """Make the secret the current one. False if another process was faster: then roll back."""
        digest = digest_of(secret)
        encrypted = self._encryptor.encrypt(_owner(digest), secret, key_id=encryption_key_id(session))
        session.execute(update(WebhookSecret).where(_IS_CURRENT).values(current=None))
        return insert_once(session, WebhookSecret, digest=digest, encrypted=encrypted, current=True)

    def _older_than(self, seconds: float) -> bool:
        return self._read_at is None or self._clock() - self._read_at >= seconds

    def _reload(self, seconds: float) -> None:
        with self._lock:
            if not self._older_than(seconds):
                return  # another thread was faster
            now = self._clock()
            with self._database.read() as session:
                valid = or_(WebhookSecret.accepted_until.is_(None), WebhookSecret.accepted_until > db_now())
                self._accepted = tuple(
                    found.encode() for found in session.scalars(select(WebhookSecret.digest).where(valid))
                )
            self._read_at = now


def _is_among(digest: bytes, accepted: Iterable[bytes]) -> bool:
    found = False
    for each in accepted:  # all of them, so that the duration reveals nothing
        found |= hmac.compare_digest(digest, each)
    return found


def _owner(digest: str) -> str:
    return f"webhook secret:{digest}"
