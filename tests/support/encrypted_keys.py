"""Certificates with encrypted keys, and whether all of them can be decrypted with the keys on disk."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from app.crypto.encryption import Encryptor, key_id_of, key_id_of_ciphertext
from app.crypto.keyring import KeyFile, encryption_key_id
from app.db.models import Certificate
from app.services import Services, build_services

COUNT = 250


def pem(number: int) -> str:
    return f"the key of {number}"


def encrypt_key(encryptor: Encryptor, certificate_id: int, text: str, *, key_id: str | None = None) -> bytes:
    return encryptor.encrypt(f"certificate:{certificate_id}", text, key_id=key_id)


def decrypt_key(encryptor: Encryptor, certificate_id: int, encrypted: bytes) -> str:
    return encryptor.decrypt(f"certificate:{certificate_id}", encrypted)


def add_encrypted_keys(services: Services, count: int = COUNT) -> None:
    with services.database.write() as session:
        key_id = encryption_key_id(session)
        for number in range(1, count + 1):
            session.add(
                Certificate(
                    id=number,
                    account_id=services.account_id,
                    domain="customer.example",
                    state="issued",
                    common_name="customer.example",
                    names=["customer.example"],
                    encrypted_key=encrypt_key(services.encryptor, number, pem(number), key_id=key_id),
                )
            )


def encrypted_keys(services: Services) -> dict[int, bytes]:
    with services.database.read() as session:
        found = session.execute(select(Certificate.id, Certificate.encrypted_key).order_by(Certificate.id)).all()
    return {number: blob for number, blob in found if blob is not None}


def key_ids(services: Services) -> list[str]:
    return [key_id_of(line) for line in services.settings.kek_file.read_text().split()]


def reopened(services: Services) -> Services:
    """As another process, started now."""
    return build_services(services.settings)


def assert_all_decrypt(services: Services, count: int = COUNT) -> None:
    fresh = reopened(services)
    found = encrypted_keys(fresh)
    assert len(found) == count
    assert {key_id_of_ciphertext(blob) for blob in found.values()} == set(key_ids(services)), (
        "under one key, the one in the file"
    )
    for number, blob in found.items():
        assert decrypt_key(fresh.encryptor, number, blob) == pem(number)
    fresh.database.close()


def key_file_copies(services: Services) -> list[Path]:
    return KeyFile(services.settings.kek_file).copies()
