"""Checks of this machine: settings, database, disk, clock, files and destinations."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import text

from app.crypto.keyring import KeyFile
from app.db.clock import read_now
from app.db.migrations import current_revision, head_revision
from app.db.models import InstallationState
from app.doctor.alerts import alert_findings
from app.doctor.findings import CheckContext, Finding, critical, ok, warning
from app.errors import CertcourierError, RetryableError
from config import is_handed_out

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "fuse.glusterfs"}
_LOW_BYTES, _CRITICAL_BYTES = 500 * 2**20, 50 * 2**20
_OFF_SECONDS, _FAR_OFF_SECONDS = 5.0, 60.0


def check_settings(context: CheckContext) -> Iterable[Finding]:
    """They are valid, or no command would run; whether they make sense together."""
    settings = context.services.settings
    public, dnsimple = (urlsplit(url).hostname for url in (settings.public_url, settings.dnsimple_base_url))
    if public in _LOOPBACK and dnsimple not in _LOOPBACK:
        yield critical(
            "PUBLIC_URL is on this machine, where DNSimple cannot deliver events",
            "set PUBLIC_URL to the public https URL of this service",
        )
    elif dnsimple in _LOOPBACK:
        yield warning("DNSIMPLE_BASE_URL is on this machine: a simulator", "remove it to use DNSimple itself")
    else:
        yield ok(f"account {settings.dnsimple_account_id}, public URL {settings.public_url}")


def check_database(context: CheckContext) -> Iterable[Finding]:
    """It answers and is writable."""
    database = context.services.database
    with database.read() as session:
        session.execute(text("SELECT 1"))
    if current_revision(database) is not None:
        with database.write() as session:
            session.merge(InstallationState(name="doctor", value="write check"))
            session.flush()
            session.rollback()
    path = database.sqlite_path
    if path is None:
        yield ok("PostgreSQL answers and is writable")
        return
    with database.read() as session:
        mode = session.execute(text("PRAGMA journal_mode")).scalar_one()
    disk = _file_system(path)
    if mode != "wal":
        yield critical(f"SQLite's journal mode is {mode}, not wal", "move the file to a local disk that this user owns")
    elif disk in _NETWORK_DISKS:
        yield critical(
            f"the database file is on a network disk ({disk}), where SQLite's locks do not work",
            "move it to a local disk, or set DATABASE_URL to PostgreSQL",
        )
    else:
        yield ok(f"SQLite answers and is writable (WAL, disk {disk})")


def check_disk(context: CheckContext) -> Iterable[Finding]:
    """There is enough free space."""
    services = context.services
    folders = {services.settings.data_dir}
    if services.database.sqlite_path:
        folders.add(services.database.sqlite_path.parent)
    for folder in sorted(folders):
        free = shutil.disk_usage(folder).free
        meaning = f"{free / 2**30:.1f} GiB are free in {folder}"
        if free < _CRITICAL_BYTES:
            yield critical(meaning, "free some space: events and orders are refused when the disk is full")
        elif free < _LOW_BYTES:
            yield warning(meaning, "free some space soon")
        else:
            yield ok(meaning)


def check_migrations(context: CheckContext) -> Iterable[Finding]:
    """The schema is the one that the code expects."""
    found, expected = current_revision(context.services.database), head_revision()
    if found != expected:
        yield critical(
            f"the schema is at revision {found}, the code expects {expected}", "run `certcourier db upgrade`"
        )
    else:
        yield ok(f"the schema is at revision {found}")


def check_clock(context: CheckContext) -> Iterable[Finding]:
    """This machine's clock agrees with the database's and DNSimple's."""
    with context.services.database.read() as session:
        database = read_now(session).timestamp()
    ours = time.time()
    yield _compared("this machine's clock and the database's", ours - database)
    context.answers.clear()
    context.dnsimple.whoami()
    sent_at = context.answers[-1].sent_at
    if sent_at is None:
        yield warning("DNSimple's answer has no date to compare with", "check this machine's clock in another way")
    else:
        yield _compared("this machine's clock and DNSimple's", time.time() - sent_at)


def check_files(context: CheckContext) -> Iterable[Finding]:
    """Only the service can read files with secrets."""
    services = context.services
    old_keys = KeyFile(services.settings.kek_file).copies()
    secret = [services.settings.kek_file, *old_keys, services.settings.data_dir / "webhook.secret", Path(".env")]
    if services.database.sqlite_path:
        secret.append(services.database.sqlite_path)
    ours = [file for file in secret if file.exists() and not is_handed_out(file)]
    open_to_others = [file for file in ours if stat.S_IMODE(file.stat().st_mode) & 0o077]
    for file in open_to_others:
        yield critical(f"{file} is readable by others", f"run `chmod 600 {file}`")
    if not open_to_others:
        yield ok("files with secrets are readable only by their owner")
    for file in old_keys:
        yield warning(
            f"{file} holds an old key-encryption key, which backups of the database need",
            "move it to where you keep the keys of backups, away from this host",
        )


def check_destinations(context: CheckContext) -> Iterable[Finding]:
    """Each is reachable and writable, and none is suspended."""
    yield from alert_findings(context, "destinations")
    services = context.services
    for name, destination in services.destinations.items():
        try:
            services.time_limits.run(destination, destination.check)
        except RetryableError as error:
            yield critical(f"{name}: {error}", "deliveries to it wait; check that it is reachable from here")
        except CertcourierError as error:
            yield critical(f"{name}: {error}", "fix it in the destinations file or at the destination")
        else:
            yield ok(f"{name}: reachable and writable")


def _compared(what: str, seconds: float) -> Finding:
    meaning = f"{what} differ by {abs(seconds):.1f} seconds"
    remedy = "synchronize both clocks with NTP"
    if abs(seconds) > _FAR_OFF_SECONDS:
        return critical(meaning, remedy)
    return warning(meaning, remedy) if abs(seconds) > _OFF_SECONDS else ok(meaning)


def _file_system(path: Path) -> str:
    """The type of the file system that holds it, according to Linux."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "of unknown type"
    found, kind = Path("/"), "of unknown type"
    for line in mounts.read_text().splitlines():
        _, point, this_kind, *_ = line.split()
        mounted = Path(point.replace("\\040", " "))
        if path.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, this_kind
    return kind
