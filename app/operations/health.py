"""Whether this installation is ready to work, and whether the database belongs to it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.alerts.evaluation import active_alerts
from app.crypto.encryption import Encryptor
from app.db.database import Database
from app.db.errors import explain_failure
from app.db.installation_state import ACCOUNT_ID, DNSIMPLE, ENCRYPTION_KEY_ID, RUNNING_VERSIONS
from app.db.migrations import current_revision, head_revision
from app.destinations.base import Destination, DestinationUnavailableError
from app.destinations.time_limits import TimeLimits
from app.errors import PermanentError
from app.services import Services
from config import Settings

log = structlog.get_logger("certcourier")

_SOURCE = Path(__file__).resolve().parents[1]


def check_readiness(services: Services) -> dict[str, str]:
    """`{"database", "migrations", "worker"}`, each `ok` or what is wrong and what to do."""
    unknown = "unknown while the database is unavailable"
    try:
        revision = current_revision(services.database)
    except SQLAlchemyError:
        return {"database": "does not answer; check DATABASE_URL", "migrations": unknown, "worker": unknown}
    if revision != head_revision():
        return {"database": "ok", "migrations": "not current; run `certcourier db upgrade`", "worker": "unknown"}
    worker = next((alert for alert in active_alerts(services, area="workers") if alert.kind == "no_worker"), None)
    return {
        "database": "ok",
        "migrations": "ok",
        "worker": f"{worker.detail}; {worker.remedy}" if worker else "ok",
    }


def note_version(database: Database, role: str) -> None:
    """Record which code the web server or worker that was started last runs; `certcourier doctor` compares."""
    with database.write() as session:
        RUNNING_VERSIONS[role].set(session, code_version())


@functools.cache
def code_version() -> str:
    """A digest of the application's source files."""
    digest = hashlib.sha256()
    for file in sorted(_SOURCE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def check_destinations(destinations: Mapping[str, Destination], time_limits: TimeLimits) -> None:
    """Raise `DestinationRefusedError` if one is misconfigured; the service starts although one is unavailable."""
    for destination in destinations.values():
        try:
            time_limits.run(destination, destination.check)
        except DestinationUnavailableError as error:
            log.warning("destination not checked", destination=destination.config.name, reason=str(error))


_OTHER_ACCOUNT = (
    "DNSIMPLE_ACCOUNT_ID: this database belongs to account {}; use another DATABASE_URL and DATA_DIR, or delete them "
    "if they are the demo's"
)
_OTHER_DNSIMPLE = (
    "DNSIMPLE_BASE_URL: this database belongs to {}; use another DATABASE_URL and DATA_DIR, or delete them if they "
    "are the demo's"
)
_SIMULATED = "a simulated DNSimple on this machine"


def claim_installation(services: Services) -> None:
    """Record which account this database belongs to, and check that it is ours.

    Raises `PermanentError` when the tables are not current, when the database belongs to another account or another
    DNSimple (IDs of two accounts would mix, and a simulator's account can have the ID of a real one), or when the
    key-encryption key that its private keys are encrypted with is not held.
    """
    try:
        revision = current_revision(services.database)
    except SQLAlchemyError as error:
        meaning, remedy = explain_failure(error)
        raise PermanentError(f"DATABASE_URL: {meaning}; {remedy}") from None
    if revision != head_revision():
        raise PermanentError("the database schema is not current: run `certcourier db upgrade` first")
    with services.database.write() as session:
        account_id = ACCOUNT_ID.set_once(session, services.account_id)
        if account_id != services.account_id:
            raise PermanentError(_OTHER_ACCOUNT.format(account_id))
        dnsimple = DNSIMPLE.set_once(session, _dnsimple(services.settings))
        if dnsimple != _dnsimple(services.settings):
            raise PermanentError(_OTHER_DNSIMPLE.format(dnsimple))
        key_id = ENCRYPTION_KEY_ID.set_once(session, services.encryptor.key_id)
        if not services.encryptor.holds(key_id):
            raise PermanentError(_lost_key(services.settings, services.encryptor, key_id))
    services.webhook_secrets.settle()
    if services.webhook_secrets.is_outdated():
        log.warning(
            "webhook secret in the settings is outdated",
            remedy="remove WEBHOOK_SECRET and its file: the current secret is in the database",
        )


def _dnsimple(settings: Settings) -> str:
    """Which DNSimple the IDs belong to; a simulator can listen on another port next time."""
    base_url = settings.dnsimple_base_url
    return _SIMULATED if urlsplit(base_url).hostname in {"localhost", "127.0.0.1", "::1"} else base_url.lower()


def _lost_key(settings: Settings, encryptor: Encryptor, required: str) -> str:
    held = ", ".join(encryptor.key_ids)
    where = "KEY_ENCRYPTION_KEY" if settings.key_encryption_key else f"KEY_ENCRYPTION_KEY_FILE: {settings.kek_file}"
    return (
        f"{where} holds key {held}, but this database's private keys are encrypted with key {required}; restore that "
        "key from its backup. If it is lost: `certcourier keys replace --lost`, then "
        "`certcourier certificates refetch --all-unreadable` (docs/security.md)"
    )
