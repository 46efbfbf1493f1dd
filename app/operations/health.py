"""Can this installation do its work, and is it the one that its database belongs to?"""

from __future__ import annotations

import functools
import hashlib
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.db.clock import db_now
from app.db.errors import explain_failure
from app.db.installation_state import ACCOUNT_ID, DNSIMPLE, ENCRYPTION_KEY_ID, RUNNING_VERSIONS
from app.db.migrations import current_revision, head_revision
from app.db.models import Worker
from app.destinations.base import DestinationUnavailableError
from app.errors import PermanentError
from app.services import Services

log = structlog.get_logger("certcourier")

# A worker that has not been heard from for so long counts as none.
WORKER_SILENT = timedelta(seconds=30)
_SOURCE = Path(__file__).resolve().parents[1]


def check_readiness(services: Services) -> dict[str, str]:
    """`{"database", "migrations", "worker"}`, each `ok` or what is wrong and what to do."""
    unknown = "not known while the database is unavailable"
    try:
        revision = current_revision(services.database)
    except SQLAlchemyError:
        return {"database": "does not answer; check DATABASE_URL", "migrations": unknown, "worker": unknown}
    if revision != head_revision():
        return {"database": "ok", "migrations": "not current; run `flask db upgrade`", "worker": "not known"}
    with services.database.read() as session:
        heard = session.scalar(
            select(func.count())
            .select_from(Worker)
            .where(Worker.last_heartbeat_at > db_now(-WORKER_SILENT.total_seconds()))
        )
    silent = f"none heard from for {WORKER_SILENT.seconds} seconds; start `flask worker`"
    return {"database": "ok", "migrations": "ok", "worker": "ok" if heard else silent}


def note_version(services: Services, role: str) -> None:
    """Note which code the web server or worker runs that was started last; `flask doctor` compares."""
    with services.database.write() as session:
        RUNNING_VERSIONS[role].set(session, code_version())


@functools.cache
def code_version() -> str:
    """A digest of this program's own source files."""
    digest = hashlib.sha256()
    for file in sorted(_SOURCE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def check_destinations(services: Services) -> None:
    """Raise `DestinationRefusedError` if one cannot work. One that hangs is no reason not to serve the others."""
    for destination in services.destinations.values():
        try:
            services.time_limits.run(destination, destination.check)
        except DestinationUnavailableError as error:
            log.warning("destination not checked", destination=destination.config.name, reason=str(error))


_OTHER_ACCOUNT = (
    "DNSIMPLE_ACCOUNT_ID: this database belongs to account {}; take another DATABASE_URL and DATA_DIR, or remove them "
    "if they are the demo's"
)
_OTHER_DNSIMPLE = (
    "DNSIMPLE_BASE_URL: this database belongs to {}; use another DATABASE_URL and DATA_DIR, or delete them if they "
    "are the demo's"
)
_SIMULATED = "a simulated DNSimple on this machine"


def claim_installation(services: Services) -> None:
    """Note whose database this is, or find that it is somebody else's.

    Raises `PermanentError` when the tables are not current, when the database belongs to another DNSimple or account
    (IDs of two accounts would mix, and a simulator's account may have a real one's number), or when the
    key-encryption key that its private keys are sealed under is not held.
    """
    try:
        revision = current_revision(services.database)
    except SQLAlchemyError as error:
        meaning, remedy = explain_failure(error)
        raise PermanentError(f"DATABASE_URL: {meaning}; {remedy}") from None
    if revision != head_revision():
        raise PermanentError("the database's tables are not current: run `flask db upgrade` first")
    with services.database.write() as session:
        account_id = ACCOUNT_ID.set_once(session, services.account_id)
        if account_id != services.account_id:
            raise PermanentError(_OTHER_ACCOUNT.format(account_id))
        dnsimple = DNSIMPLE.set_once(session, _dnsimple(services))
        if dnsimple != _dnsimple(services):
            raise PermanentError(_OTHER_DNSIMPLE.format(dnsimple))
        key_id = ENCRYPTION_KEY_ID.set_once(session, services.encryptor.key_id)
        if not services.encryptor.holds(key_id):
            raise PermanentError(_lost_key(services, key_id))
    services.webhook_secrets.settle()
    if services.webhook_secrets.is_outdated():
        log.warning(
            "webhook secret configured is outdated",
            remedy="leave WEBHOOK_SECRET and its file out: the newest one is in the database",
        )


def _dnsimple(services: Services) -> str:
    """Which DNSimple the IDs are of; a simulator may listen on another port the next time."""
    base_url = services.settings.dnsimple_base_url
    return _SIMULATED if urlsplit(base_url).hostname in {"localhost", "127.0.0.1", "::1"} else base_url.lower()


def _lost_key(services: Services, sealing: str) -> str:
    held = ", ".join(services.encryptor.key_ids)
    where = (
        "KEY_ENCRYPTION_KEY"
        if services.settings.key_encryption_key
        else f"KEY_ENCRYPTION_KEY_FILE: {services.settings.kek_file}"
    )
    return (
        f"{where} holds key {held}, but this database's private keys are encrypted with key {sealing}; restore that "
        "key from its backup. If it is lost for good: `flask keys replace --lost`, then "
        "`flask certificates refetch --all-unreadable` (docs/security.md)"
    )
