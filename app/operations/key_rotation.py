"""Another key-encryption key, while everything goes on: all can open with both, rows are sealed anew, the old one goes.

Each step is on record before the next one begins, so that a rotation that was interrupted is taken up where it was:
the new key is in the file; the database names it as the one to seal under; rows are sealed anew; nothing is sealed
under the old one any more, and then it is moved into a file of its own, for the backups that were made before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, LargeBinary, func, select, update
from sqlalchemy.orm import Session

from app.audit import record
from app.crypto.encryption import key_id_of, key_id_of_ciphertext
from app.crypto.keyring import KeyFile, without
from app.db.clock import db_now
from app.db.installation_state import ENCRYPTION_KEY_ID
from app.db.models import Certificate, WebhookSecret, Worker
from app.errors import CertcourierError, PermanentError
from app.services import Services

BATCH = 100
HEARD_SECONDS = 30.0
_HEADER: ColumnElement[bytes] = func.substr(Certificate.encrypted_key, 2, 8, type_=LargeBinary)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key-encryption key: whether it is the one to seal under, whether we hold it, and how much needs it."""

    key_id: str
    seals: bool
    held: bool
    certificates: int
    webhook_secrets: int

    @property
    def is_needed(self) -> bool:
        """Whether dropping it would lose something."""
        return self.seals or self.certificates > 0 or self.webhook_secrets > 0


@dataclass(frozen=True, slots=True)
class Begun:
    """What a rotation has to do from here; `resumed` if an earlier one was interrupted."""

    key_id: str
    resumed: bool


def key_uses(services: Services) -> list[KeyUse]:
    """All keys that are held or needed, the one to seal under first."""
    services.encryptor.refresh()
    with services.database.read() as session:
        return _uses(services, session)


def begin(services: Services, given: str | None = None) -> Begun:
    """Put a new key, `given` or a fresh one, into the first place of the file, unless it is there already.

    Raises `PermanentError` when the keys come from where we cannot write, or when the present one is lost.
    """
    uses = key_uses(services)
    sealing = next((use for use in uses if use.seals), None)
    if sealing is None or not sealing.held:
        raise PermanentError("the key to seal under is not held here: see `flask keys status`")
    first = services.encryptor.key_id
    if given is not None and key_id_of(given) in services.encryptor.key_ids and key_id_of(given) != first:
        raise PermanentError(f"the key given, {key_id_of(given)}, was in use before; take a fresh one")
    if first != sealing.key_id:
        _same(given, first)
        return Begun(first, resumed=True)
    if any(use.held and use.is_needed and not use.seals for use in uses) or len(services.encryptor.key_ids) > 1:
        _same(given, first)
        return Begun(first, resumed=True)
    file = _writable_file(services)
    new = given or services.encryptor.new_key()
    file.write([new, *file.read().split()])
    services.encryptor.refresh()
    return Begun(key_id_of(new), resumed=False)


def workers_missing_key(services: Services, key_id: str) -> list[str]:
    """Host and process of each worker heard from lately that does not hold the key yet; they look every few seconds."""
    alive = select(Worker).where(Worker.last_heartbeat_at > db_now(-HEARD_SECONDS)).order_by(Worker.host, Worker.pid)
    with services.database.read() as session:
        return [f"{row.host} ({row.pid})" for row in session.scalars(alive) if key_id not in (row.key_ids or ())]


def switch(services: Services, session: Session, key_id: str, *, actor: str) -> None:
    """From now on everything is sealed under this key. Waits for what is being sealed at this moment."""
    before = ENCRYPTION_KEY_ID.get_locked(session)
    if not services.encryptor.holds(key_id):
        raise PermanentError(f"key {key_id} is not held here any more: see `flask keys status`")
    if before != key_id:
        record(session, actor=actor, action="key.rotated", subject=key_id, detail={"before": before})
    ENCRYPTION_KEY_ID.set(session, key_id)


def owed(services: Services) -> int:
    """How many certificates are sealed under another key than they should be, and could be sealed anew."""
    return sum(use.certificates for use in key_uses(services) if use.held and not use.seals)


def reencrypt_all(services: Services) -> Iterator[int]:
    """Seal everything under the key to seal under, a small batch a transaction. Yields how many each has sealed."""
    with services.database.write() as session:
        services.webhook_secrets.reencrypt(session, _encryption_key_id(session, shared=True))
    last = 0
    while True:
        with services.database.write() as session:
            target = _encryption_key_id(session, shared=True)
            rows = session.execute(
                select(Certificate.id, Certificate.encrypted_key)
                .where(
                    Certificate.id > last,
                    Certificate.encrypted_key.is_not(None),
                    _HEADER.is_distinct_from(bytes.fromhex(target)),
                )
                .order_by(Certificate.id)
                .limit(BATCH)
                .with_for_update()
            ).all()
            encrypted = sum(_reencrypt(services, session, number, old, target) for number, old in rows)
        if not rows:
            return
        last = rows[-1][0]
        yield encrypted


def drop(services: Services, session: Session, key_ids: set[str], *, actor: str) -> list[Path]:
    """Take keys out of the file, each into a file of its own. Returns those files.

    Raises `PermanentError` if one of them is needed, or when the keys come from where we cannot write.

    No transaction can seal under a dropped key: whoever seals has read which key to seal under in that transaction, and
    this one waits for those and lets no other begin.
    """
    ENCRYPTION_KEY_ID.get_locked(session)
    for use in _uses(services, session):
        if use.key_id in key_ids and use.is_needed:
            raise PermanentError(
                f"key {use.key_id} is needed by {use.certificates} certificates: run `flask keys rotate` first"
            )
    if services.settings.key_encryption_key is not None:
        raise PermanentError(manual_steps(key_ids))
    file = KeyFile(services.settings.kek_file)
    if not without(file.read(), key_ids):
        raise PermanentError("the last key cannot be dropped")
    for key_id in sorted(key_ids):
        record(session, actor=actor, action="key.dropped", subject=key_id, detail={"to": str(file.copy_of(key_id))})
    return file.take_out(key_ids)


def manual_steps(key_ids: Collection[str]) -> str:
    """What to do with keys of the environment that nothing needs here."""
    return (
        f"key {', '.join(sorted(key_ids))} is not needed any more, but by backups of the database: save it where the "
        "backups' keys are, then take it out of KEY_ENCRYPTION_KEY on every host"
    )


def replace_lost(services: Services, session: Session, *, actor: str) -> str:
    """Go on under the key that we hold, without the one that is lost. Returns the lost one's ID.

    Raises `PermanentError` if it is held, or was only taken out of the file: then nothing need be given up.
    """
    lost = _encryption_key_id(session)
    if services.encryptor.holds(lost):
        raise PermanentError(f"key {lost} is held here, so it is not lost: use `flask keys rotate`")
    file = KeyFile(services.settings.kek_file)
    if file.copy_of(lost).exists():
        raise PermanentError(f"key {lost} is not lost: it is in {file.copy_of(lost)}; see `flask keys status`")
    ENCRYPTION_KEY_ID.set(session, services.encryptor.key_id)
    record(session, actor=actor, action="key.given_up", subject=lost, detail={"now": services.encryptor.key_id})
    services.webhook_secrets.rotate(session)  # the old one cannot be opened any more, but is still taken
    return lost


def undecryptable(services: Services) -> Iterator[int]:
    """IDs of the certificates whose private key is on record and cannot be opened here."""
    last = 0
    while True:
        with services.database.read() as session:
            rows = session.execute(
                select(Certificate.id, Certificate.encrypted_key)
                .where(Certificate.id > last, Certificate.encrypted_key.is_not(None))
                .order_by(Certificate.id)
                .limit(10 * BATCH)
            ).all()
        yield from (number for number, encrypted in rows if not _decrypts(services, number, encrypted))
        if not rows:
            return
        last = rows[-1][0]


def _reencrypt(services: Services, session: Session, number: int, old: bytes | None, target: str) -> bool:
    """False for one that cannot be opened: it stays as it is, to be fetched again."""
    try:
        pem = services.encryptor.decrypt(old or b"", certificate_id=number)
    except CertcourierError:
        return False
    new = services.encryptor.encrypt(pem, certificate_id=number, under=target)
    # Nothing about the certificate has changed, so neither does `updated_at`.
    changed = update(Certificate).where(Certificate.id == number)
    session.execute(changed.values(encrypted_key=new, updated_at=Certificate.updated_at))
    return True


def _decrypts(services: Services, number: int, encrypted: bytes | None) -> bool:
    try:
        services.encryptor.decrypt(encrypted or b"", certificate_id=number)
    except CertcourierError:
        return False
    return True


def _uses(services: Services, session: Session) -> list[KeyUse]:
    sealing = ENCRYPTION_KEY_ID.get(session)
    held = services.encryptor.key_ids
    counted = session.execute(
        select(_HEADER, func.count()).where(Certificate.encrypted_key.is_not(None)).group_by(_HEADER)
    ).all()
    certificates = {bytes(header).hex(): count for header, count in counted}
    secrets = Counter(key_id_of_ciphertext(encrypted) for encrypted in session.scalars(select(WebhookSecret.encrypted)))
    known = dict.fromkeys([*([sealing] if sealing else []), *held, *sorted(certificates), *sorted(secrets)])
    return [
        KeyUse(key_id, key_id == sealing, key_id in held, certificates.get(key_id, 0), secrets[key_id])
        for key_id in known
    ]


def _encryption_key_id(session: Session, *, shared: bool = False) -> str:
    key_id = ENCRYPTION_KEY_ID.get_locked(session, shared=shared)
    if key_id is None:
        raise PermanentError("no process has used this database yet: start `flask worker` first")
    return key_id


def _same(given: str | None, first: str) -> None:
    if given is not None and key_id_of(given) != first:
        raise PermanentError(
            f"a rotation to key {first} is not complete: run `flask keys rotate` without a key first, then this"
        )


def _writable_file(services: Services) -> KeyFile:
    if services.settings.key_encryption_key is not None:
        raise PermanentError(
            "KEY_ENCRYPTION_KEY: an environment variable cannot be changed from here. To rotate, write "
            "'NEW OLD' into it on every host (`flask keys new` makes a key), restart web and worker, and run "
            "`flask keys rotate`; afterwards write NEW alone"
        )
    return KeyFile(services.settings.kek_file)
