"""Checks of what is on this machine: settings, database, clock, files, destinations."""

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
from app.doctor.findings import CheckContext, Finding, ok, problem, warning
from app.errors import CertcourierError, RetryableError
from config import is_handed_out

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "fuse.glusterfs"}
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 500 * 2**20, 50 * 2**20
_OFF_SECONDS, _FAR_OFF_SECONDS = 5.0, 60.0


def check_settings(examination: CheckContext) -> Iterable[Finding]:
    """They are valid, or no command would run; do they make sense together?"""
    settings = examination.services.settings
    public, dnsimple = (urlsplit(url).hostname for url in (settings.public_url, settings.dnsimple_base_url))
    if public in _LOOPBACK and dnsimple not in _LOOPBACK:
        yield problem(
            "PUBLIC_URL is on this machine, where DNSimple cannot post its events",
            "set PUBLIC_URL to where the world reaches this service by https",
        )
    elif dnsimple in _LOOPBACK:
        yield warning("DNSIMPLE_BASE_URL is on this machine: a simulator", "leave it out to use DNSimple itself")
    else:
        yield ok(f"account {settings.dnsimple_account_id}, public URL {settings.public_url}")


def check_database(examination: CheckContext) -> Iterable[Finding]:
    """It answers and can be written."""
    database = examination.services.database
    with database.read() as session:
        session.execute(text("SELECT 1"))
    if current_revision(database) is not None:
        with database.write() as session:
            session.merge(InstallationState(name="doctor", value="write check"))
            session.flush()
            session.rollback()
    path = database.sqlite_path
    if path is None:
        yield ok("PostgreSQL answers and can be written")
        return
    with database.read() as session:
        mode = session.execute(text("PRAGMA journal_mode")).scalar_one()
    disk = _file_system(path)
    if mode != "wal":
        yield problem(f"SQLite's journal mode is {mode}, not wal", "put the file on a local disk that this user owns")
    elif disk in _NETWORK_DISKS:
        yield problem(
            f"the database's file is on a network disk ({disk}), where SQLite's locks do not work",
            "put it on a local disk, or set DATABASE_URL to PostgreSQL",
        )
    else:
        yield ok(f"SQLite answers and can be written (WAL, disk {disk})")


def check_disk(examination: CheckContext) -> Iterable[Finding]:
    """There is room for what will be written."""
    services = examination.services
    folders = {services.settings.data_dir}
    if services.database.sqlite_path:
        folders.add(services.database.sqlite_path.parent)
    for folder in sorted(folders):
        free = shutil.disk_usage(folder).free
        told = f"{free / 2**30:.1f} GiB are free in {folder}"
        if free < _TOO_LITTLE_BYTES:
            yield problem(told, "make room: events and orders are refused when the disk is full")
        elif free < _LITTLE_BYTES:
            yield warning(told, "make room soon")
        else:
            yield ok(told)


def check_migrations(examination: CheckContext) -> Iterable[Finding]:
    """Tables and code fit together."""
    found, expected = current_revision(examination.services.database), head_revision()
    if found != expected:
        yield problem(f"the tables are at revision {found}, this code expects {expected}", "run `flask db upgrade`")
    else:
        yield ok(f"the tables are at revision {found}")


def check_clock(examination: CheckContext) -> Iterable[Finding]:
    """Validity and quota windows are times: the database's clock counts, DNSimple's is compared."""
    with examination.services.database.read() as session:
        database = read_now(session).timestamp()
    ours = time.time()
    yield _compared("this machine's clock and the database's", ours - database)
    examination.answers.clear()
    examination.dnsimple.whoami()
    sent_at = examination.answers[-1].sent_at
    if sent_at is None:
        yield warning("DNSimple's answer has no date to compare with", "check this machine's clock by other means")
    else:
        yield _compared("this machine's clock and DNSimple's", time.time() - sent_at)


def check_files(examination: CheckContext) -> Iterable[Finding]:
    """Nobody but the service reads what is secret."""
    services = examination.services
    old_keys = KeyFile(services.settings.kek_file).copies()
    secret = [services.settings.kek_file, *old_keys, services.settings.data_dir / "webhook.secret", Path(".env")]
    if services.database.sqlite_path:
        secret.append(services.database.sqlite_path)
    ours = [file for file in secret if file.exists() and not is_handed_out(file)]
    open_to_others = [file for file in ours if stat.S_IMODE(file.stat().st_mode) & 0o077]
    for file in open_to_others:
        yield problem(f"{file} can be read by others", f"run `chmod 600 {file}`")
    if not open_to_others:
        yield ok("files with secrets can be read by their owner alone")
    for file in old_keys:
        yield warning(
            f"{file} holds an old key-encryption key, which backups of the database need",
            "move it to where the backups' keys are, away from this host",
        )


def check_destinations(examination: CheckContext) -> Iterable[Finding]:
    """Each could be delivered to."""
    services = examination.services
    for name, destination in services.destinations.items():
        try:
            services.time_limits.run(destination, destination.check)
        except RetryableError as error:
            yield problem(f"{name}: {error}", "deliveries there wait; see whether it can be reached from here")
        except CertcourierError as error:
            yield problem(f"{name}: {error}", "mend what it names, in the destinations file or at the destination")
        else:
            yield ok(f"{name} can be delivered to")


def _compared(what: str, seconds: float) -> Finding:
    told = f"{what} differ by {abs(seconds):.1f} seconds"
    remedy = "let both machines' clocks be set by NTP"
    if abs(seconds) > _FAR_OFF_SECONDS:
        return problem(told, remedy)
    return warning(told, remedy) if abs(seconds) > _OFF_SECONDS else ok(told)


def _file_system(path: Path) -> str:
    """Kind of the file system that holds it, as Linux says."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "of unknown kind"
    found, kind = Path("/"), "of unknown kind"
    for line in mounts.read_text().splitlines():
        _, point, this_kind, *_ = line.split()
        mounted = Path(point.replace("\\040", " "))
        if path.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, this_kind
    return kind
