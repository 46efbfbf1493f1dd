"""The only way in and out of the private keys in the database, which are encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, LargeBinary, func, select, update
from sqlalchemy.orm import Session

from app.crypto.encryption import Encryptor
from app.crypto.keyring import encryption_key_id
from app.crypto.private_key import PrivateKey
from app.db.database import Database
from app.db.models import Certificate
from app.errors import CertcourierError, PermanentError

_BATCH = 1000
# The ID of the key-encryption key, in the header of what `Encryptor` returns.
_KEY_ID: ColumnElement[bytes] = func.substr(Certificate.encrypted_key, 2, 8, type_=LargeBinary)


class PrivateKeyMissingError(PermanentError):
    """The certificate's private key is no longer stored."""


@dataclass(frozen=True, slots=True)
class ReencryptedBatch:
    """`last_id`: the last certificate of the batch; `count`: how many keys were encrypted again."""

    last_id: int
    count: int


class PrivateKeyStore:
    """Private keys in the certificates' rows. A key is bound to its certificate's ID and decrypts in no other row."""

    def __init__(self, encryptor: Encryptor) -> None:
        self._encryptor = encryptor

    def store(self, session: Session, certificate: Certificate, key: PrivateKey) -> None:
        """Store the key in the certificate's row, in the caller's transaction. Raises `KeyNotHeldError`."""
        certificate.encrypted_key = self._encrypt(certificate.id, key, encryption_key_id(session))

    def load(self, certificate: Certificate) -> PrivateKey:
        """The key in clear. Raises `PrivateKeyMissingError`, `DecryptionError` or `KeyNotHeldError`."""
        if certificate.encrypted_key is None:
            raise PrivateKeyMissingError(
                f"the private key of certificate {certificate.id} is no longer stored (PRIVATE_KEY_RETENTION, or "
                "removed at DNSimple and KEEP_KEYS_REMOVED_AT_DNSIMPLE is off): run "
                f"`certcourier certificates refetch {certificate.id}`, or place a new order"
            )
        return self._decrypt(certificate.id, certificate.encrypted_key)

    def count_by_key_id(self, session: Session) -> dict[str, int]:
        """How many private keys are encrypted with each key-encryption key."""
        query = select(_KEY_ID, func.count()).where(Certificate.encrypted_key.is_not(None)).group_by(_KEY_ID)
        return {bytes(key_id).hex(): count for key_id, count in session.execute(query)}

    def reencrypt_batch(self, session: Session, *, after: int, limit: int) -> ReencryptedBatch | None:
        """Encrypt the next keys beyond the certificate ID `after` with the primary key-encryption key.

        A key that cannot be decrypted stays as it is. None when no key is left.
        """
        key_id = encryption_key_id(session)
        if key_id is None:
            return None
        rows = session.execute(
            select(Certificate.id, Certificate.encrypted_key)
            .where(
                Certificate.id > after,
                Certificate.encrypted_key.is_not(None),
                _KEY_ID.is_distinct_from(bytes.fromhex(key_id)),
            )
            .order_by(Certificate.id)
            .limit(limit)
            .with_for_update()
        ).all()
        count = 0
        for certificate_id, encrypted in rows:
            try:
                key = self._decrypt(certificate_id, encrypted or b"")
            except CertcourierError:
                continue
            # Nothing about the certificate has changed, so neither does `updated_at`.
            changed = update(Certificate).where(Certificate.id == certificate_id)
            values = {"encrypted_key": self._encrypt(certificate_id, key, key_id), "updated_at": Certificate.updated_at}
            session.execute(changed.values(values))
            count += 1
        return ReencryptedBatch(rows[-1][0], count) if rows else None

    def undecryptable_ids(self, database: Database) -> Iterator[int]:
        """IDs of the certificates whose private key is stored and cannot be decrypted here."""
        after = 0
        while True:
            with database.read() as session:
                rows = session.execute(
                    select(Certificate.id, Certificate.encrypted_key)
                    .where(Certificate.id > after, Certificate.encrypted_key.is_not(None))
                    .order_by(Certificate.id)
                    .limit(_BATCH)
                ).all()
            for certificate_id, encrypted in rows:
                try:
                    self._decrypt(certificate_id, encrypted or b"")
                except CertcourierError:
                    yield certificate_id
            if not rows:
                return
            after = rows[-1][0]

    def _encrypt(self, certificate_id: int, key: PrivateKey, key_id: str | None) -> bytes:
        return self._encryptor.encrypt(f"certificate:{certificate_id}", key.reveal(), key_id=key_id)

    def _decrypt(self, certificate_id: int, encrypted: bytes) -> PrivateKey:
        return PrivateKey(self._encryptor.decrypt(f"certificate:{certificate_id}", encrypted))
