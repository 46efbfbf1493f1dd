"""Rotation of the key-encryption key while the service runs.

Each step is recorded before the next one begins, so an interrupted rotation resumes where it stopped: (1) the new key
is added to the file, and every process can decrypt with both; (2) the database names it as the primary key; (3) every
row is encrypted with it; (4) the old key is dropped: moved into a file of its own, for backups made before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import record
from app.crypto.encryption import Encryptor, key_id_of, key_id_of_ciphertext
from app.crypto.keyring import KeyFile, without
from app.crypto.private_key_store import PrivateKeyStore
from app.crypto.webhook_secrets import WebhookSecrets
from app.db.clock import db_now
from app.db.database import Database
from app.db.installation_state import ENCRYPTION_KEY_ID
from app.db.models import WebhookSecret, Worker
from app.errors import PermanentError
from app.services import Services
from config import Settings

BATCH = 100
HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key-encryption key: whether it is the primary one, whether this process holds it, and what it encrypts."""

    key_id: str
    is_primary: bool
    held: bool
    certificates: int
    webhook_secrets: int

    @property
    def is_needed(self) -> bool:
        """Whether something could not be decrypted without it."""
        return self.is_primary or self.certificates > 0 or self.webhook_secrets > 0


@dataclass(frozen=True, slots=True)
class RotationStart:
    """The key to rotate to; `resumed` if an earlier rotation was interrupted."""

    key_id: str
    resumed: bool


def key_uses(database: Database, encryptor: Encryptor, private_keys: PrivateKeyStore) -> list[KeyUse]:
    """All keys that are held or needed, the primary one first."""
    encryptor.refresh()
    with database.read() as session:
        return _uses(encryptor, private_keys, session)


def start_rotation(services: Services, given: str | None = None) -> RotationStart:
    """Add a key, `given` or a new one, as the first of the file, unless an earlier rotation has done that.

    Raises `PermanentError` if the keys are not in a file that can be written, or the primary key is not held.
    """
    uses = key_uses(services.database, services.encryptor, services.private_keys)
    primary = next((use for use in uses if use.is_primary), None)
    if primary is None or not primary.held:
        raise PermanentError("the primary key is not held by this process: see `certcourier keys status`")
    first = services.encryptor.key_id
    given_id = None if given is None else key_id_of(given)
    if given_id in services.encryptor.key_ids and given_id != first:
        raise PermanentError(f"the given key, {given_id}, has been used before: create a new one")
    is_incomplete = any(use.held and use.is_needed and not use.is_primary for use in uses)
    if first != primary.key_id or is_incomplete or len(services.encryptor.key_ids) > 1:
        if given_id not in {None, first}:
            raise PermanentError(
                f"the rotation to key {first} is not complete: run `certcourier keys rotate` without a key first"
            )
        return RotationStart(first, resumed=True)
    if services.settings.key_encryption_key is not None:
        raise PermanentError(
            "KEY_ENCRYPTION_KEY: a command cannot change an environment variable. To rotate, set it to 'NEW OLD' on "
            "every host (`certcourier keys new` prints a key), restart web and worker, and run `certcourier keys "
            "rotate`; afterwards set it to NEW alone"
        )
    file = KeyFile(services.settings.kek_file)
    new = given or services.encryptor.new_key()
    file.write([new, *file.read().split()])
    services.encryptor.refresh()
    return RotationStart(key_id_of(new), resumed=False)


def workers_missing_key(database: Database, key_id: str) -> list[str]:
    """Host and process ID of each running worker that has not read the key yet; workers do every few seconds."""
    recent = Worker.last_heartbeat_at > db_now(-HEARTBEAT_SECONDS)
    with database.read() as session:
        workers = session.scalars(select(Worker).where(recent).order_by(Worker.host, Worker.pid))
        return [f"{row.host} ({row.pid})" for row in workers if key_id not in (row.key_ids or ())]


def activate_key(encryptor: Encryptor, session: Session, key_id: str, *, actor: str) -> None:
    """Make the key the primary one. Waits for transactions that are encrypting at this moment."""
    before = ENCRYPTION_KEY_ID.get_locked(session)
    if not encryptor.holds(key_id):
        raise PermanentError(f"key {key_id} is no longer held by this process: see `certcourier keys status`")
    if before != key_id:
        record(session, actor=actor, action="key.rotated", subject=key_id, detail={"before": before})
    ENCRYPTION_KEY_ID.set(session, key_id)


def count_outdated(database: Database, encryptor: Encryptor, private_keys: PrivateKeyStore) -> int:
    """How many private keys are encrypted with another held key than the primary one."""
    return sum(
        use.certificates for use in key_uses(database, encryptor, private_keys) if use.held and not use.is_primary
    )


def reencrypt_all(database: Database, private_keys: PrivateKeyStore, webhook_secrets: WebhookSecrets) -> Iterator[int]:
    """Encrypt everything with the primary key, in small transactions. Yields the number of private keys in each."""
    with database.write() as session:
        webhook_secrets.reencrypt(session)
    after = 0
    while True:
        with database.write() as session:
            batch = private_keys.reencrypt_batch(session, after=after, limit=BATCH)
        if batch is None:
            return
        after = batch.last_id
        yield batch.count


def drop_keys(
    settings: Settings,
    encryptor: Encryptor,
    private_keys: PrivateKeyStore,
    session: Session,
    key_ids: set[str],
    *,
    actor: str,
) -> list[Path]:
    """Take keys out of the file, each into a file of its own. Returns those files.

    Raises `PermanentError` if one of them is needed, or the keys are not in a file that can be written.

    No transaction can encrypt with a dropped key: each reads which key is primary and keeps that row locked until it
    commits, and this one waits for all of them.
    """
    ENCRYPTION_KEY_ID.get_locked(session)
    for use in _uses(encryptor, private_keys, session):
        if use.key_id in key_ids and use.is_needed:
            raise PermanentError(
                f"key {use.key_id} is needed by {use.certificates} certificates: run `certcourier keys rotate` first"
            )
    if settings.key_encryption_key is not None:
        raise PermanentError(manual_steps(key_ids))
    file = KeyFile(settings.kek_file)
    if not without(file.read(), key_ids):
        raise PermanentError("the only key cannot be dropped")
    for key_id in sorted(key_ids):
        record(session, actor=actor, action="key.dropped", subject=key_id, detail={"to": str(file.copy_of(key_id))})
    return file.take_out(key_ids)


def manual_steps(key_ids: Collection[str]) -> str:
    """How to drop keys that come from the environment."""
    return (
        f"key {', '.join(sorted(key_ids))} is no longer needed, except by backups of the database: save it with the "
        "backups' keys, then remove it from KEY_ENCRYPTION_KEY on every host"
    )


def replace_lost_key(
    settings: Settings, encryptor: Encryptor, webhook_secrets: WebhookSecrets, session: Session, *, actor: str
) -> str:
    """Make the held key the primary one in place of a lost key. Returns the lost key's ID.

    Raises `PermanentError` if that key is held, or has only been taken out of the file.
    """
    lost = ENCRYPTION_KEY_ID.get_locked(session)
    if lost is None:
        raise PermanentError("no process has used this database yet: start `certcourier worker` first")
    if encryptor.holds(lost):
        raise PermanentError(f"key {lost} is held by this process, so it is not lost: use `certcourier keys rotate`")
    file = KeyFile(settings.kek_file)
    if file.copy_of(lost).exists():
        raise PermanentError(f"key {lost} is not lost: it is in {file.copy_of(lost)}; see `certcourier keys status`")
    ENCRYPTION_KEY_ID.set(session, encryptor.key_id)
    record(session, actor=actor, action="key.replaced", subject=lost, detail={"now": encryptor.key_id})
    webhook_secrets.rotate(session)  # the old secret cannot be decrypted any more, but stays accepted
    return lost


def _uses(encryptor: Encryptor, private_keys: PrivateKeyStore, session: Session) -> list[KeyUse]:
    primary = ENCRYPTION_KEY_ID.get(session)
    held = encryptor.key_ids
    certificates = private_keys.count_by_key_id(session)
    secrets = Counter(key_id_of_ciphertext(encrypted) for encrypted in session.scalars(select(WebhookSecret.encrypted)))
    known = dict.fromkeys([*([primary] if primary else []), *held, *sorted(certificates), *sorted(secrets)])
    return [
        KeyUse(key_id, key_id == primary, key_id in held, certificates.get(key_id, 0), secrets[key_id])
        for key_id in known
    ]
