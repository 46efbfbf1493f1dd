"""`certcourier keys`."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click
from flask.cli import AppGroup

from app.commands.options import as_json_option
from app.commands.output import counted, current_services, operator, print_rows, progress_bar
from app.crypto.encryption import Encryptor
from app.crypto.keyring import KeyFile
from app.crypto.secret_files import read_secret
from app.db.database import Database
from app.errors import CertcourierError
from app.operations import key_rotation
from app.services import Services
from config import Settings

group = AppGroup("keys", help="Manage the key-encryption keys, which encrypt private keys in the database.")


@group.command("status", epilog="Example: certcourier keys status")
def status() -> None:
    """Show whether all private keys can be decrypted; exits with 1 if there is something to do."""
    services = current_services()
    uses = key_rotation.key_uses(services.database, services.encryptor, services.private_keys)
    actions = _required_actions(services, uses)
    click.echo(f"Source: {_source(services.settings)}")
    for use in uses:
        role = ("primary" if use.is_primary else "decrypts only") if use.held else "missing on this host"
        encrypted = f"{counted(use.certificates, 'certificate')}, {counted(use.webhook_secrets, 'webhook secret')}"
        click.echo(f"  {use.key_id}  {role}; {encrypted}")
    for line in actions or ["All private keys are encrypted under the primary key."]:
        click.echo(line)
    for copy in KeyFile(services.settings.kek_file).copies():
        click.echo(_retired(copy))
    if actions:
        raise SystemExit(1)


@group.command("list", epilog="Example: certcourier keys list")
@as_json_option
def list_keys(as_json: bool) -> None:
    """List key IDs (an ID reveals nothing about its key)."""
    rows = [
        {
            "key_id": use.key_id,
            "primary": use.is_primary,
            "available": use.held,
            "certificates": use.certificates,
            "webhook_secrets": use.webhook_secrets,
        }
        for use in key_rotation.key_uses(
            current_services().database, current_services().encryptor, current_services().private_keys
        )
    ]
    print_rows(rows, as_json=as_json, empty="No keys.")


@group.command("new", epilog="Example: certcourier keys new > new.key")
def new_key() -> None:
    """Generate a key and print it, for files and variables that are edited by hand. It is not stored."""
    click.echo(Encryptor.new_key())


@group.command("rotate", epilog="Example: certcourier keys rotate")
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use the key in this file. Default: generate one.",
)
@click.option(
    "--wait",
    type=click.IntRange(0),
    default=60,
    show_default=True,
    help="Seconds to wait for all workers to acknowledge the new key.",
)
def rotate(key_file: Path | None, wait: int) -> None:
    """Re-encrypt everything under a new key while the service runs. If interrupted, run it again to continue."""
    services = current_services()
    try:
        with _changing(services.settings):
            _rotate(services, read_secret(key_file) if key_file else None, wait)
            _drop_unneeded(services)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None


def _rotate(services: Services, given: str | None, wait: int) -> None:
    start = key_rotation.start_rotation(services, given)
    click.echo(f"{'Continuing with' if start.resumed else 'New'} key {start.key_id}.")
    _wait_for_workers(services.settings, services.database, start.key_id, wait)
    with services.database.write() as session:
        key_rotation.activate_key(services.encryptor, session, start.key_id, actor=operator())
    count = key_rotation.count_outdated(services.database, services.encryptor, services.private_keys)
    with progress_bar(count, "Re-encrypting") as bar:
        for encrypted in key_rotation.reencrypt_all(services.database, services.private_keys, services.webhook_secrets):
            bar.update(encrypted)
    click.echo(f"Everything that could be decrypted is now encrypted under key {start.key_id}.")


def _wait_for_workers(settings: Settings, database: Database, key_id: str, wait: int) -> None:
    deadline = time.monotonic() + wait
    while missing := key_rotation.workers_missing_key(database, key_id):
        if time.monotonic() >= deadline:
            raise click.ClickException(
                f"these workers do not have key {key_id} yet: {', '.join(missing)}. Copy it to their hosts "
                f"({_source(settings)}), then run the command again"
            )
        time.sleep(0.2)


def _drop_unneeded(services: Services) -> None:
    unneeded = {
        use.key_id
        for use in key_rotation.key_uses(services.database, services.encryptor, services.private_keys)
        if use.held and not use.is_needed
    }
    if not unneeded:
        return
    if services.settings.key_encryption_key is not None:
        click.echo(f"Remaining manual steps: {key_rotation.manual_steps(unneeded)}.")
        return
    with services.database.write() as session:
        copies = key_rotation.drop_keys(
            services.settings, services.encryptor, services.private_keys, session, unneeded, actor=operator()
        )
    _report_dropped(services.settings, unneeded, copies)


def _report_dropped(settings: Settings, key_ids: set[str], copies: list[Path]) -> None:
    click.echo(f"Removed {', '.join(sorted(key_ids))} from {settings.kek_file}.")
    for copy in copies:
        click.echo(_retired(copy))


def _retired(copy: Path) -> str:
    return (
        f"{copy} holds a retired key that older database backups need: move it off this host, "
        "to where the keys of your backups are kept."
    )


@group.command("drop", epilog="Example: certcourier keys drop")
@click.argument("key_ids", metavar="[KEY_ID]...", nargs=-1)
def drop(key_ids: tuple[str, ...]) -> None:
    """Move unused keys out of the key file, each into a file of its own. Default: all unused keys."""
    services = current_services()
    held = {
        use.key_id: use
        for use in key_rotation.key_uses(services.database, services.encryptor, services.private_keys)
        if use.held
    }
    unknown = [key_id for key_id in key_ids if key_id not in held]
    if unknown:
        raise click.ClickException(
            f"key {', '.join(unknown)} is not available on this host; see `certcourier keys list`"
        )
    chosen = set(key_ids) or {key_id for key_id, use in held.items() if not use.is_needed}
    if not chosen:
        click.echo("All keys are in use.")
        return
    try:
        with _changing(services.settings), services.database.write() as session:
            copies = key_rotation.drop_keys(
                services.settings, services.encryptor, services.private_keys, session, chosen, actor=operator()
            )
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    _report_dropped(services.settings, chosen, copies)


@group.command("replace", epilog="Example: certcourier keys replace --lost")
@click.option("--lost", is_flag=True, required=True, help="Confirm that the primary key is permanently lost.")
def replace(lost: bool) -> None:  # noqa: ARG001, the confirmation only has to be given
    """Make the available key the primary one. Private keys encrypted under the lost key must be fetched again."""
    services = current_services()
    try:
        with services.database.write() as session:
            lost_key_id = key_rotation.replace_lost_key(
                services.settings, services.encryptor, services.webhook_secrets, session, actor=operator()
            )
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    count = sum(1 for _ in services.private_keys.undecryptable_ids(services.database))
    click.echo(f"Key {lost_key_id} is no longer used; {services.encryptor.key_id} is now the primary key.")
    click.echo("If you find the lost key, add it as a second line and run `certcourier keys rotate`.")
    click.echo(
        f"Start web server and worker, then fetch {counted(count, 'private key')} again: "
        "certcourier certificates refetch --all-unreadable"
    )


def _changing(settings: Settings) -> AbstractContextManager[None]:
    """Lock the key file against other commands, if the keys are in a file."""
    return KeyFile(settings.kek_file).changing() if settings.key_encryption_key is None else nullcontext()


def _source(settings: Settings) -> str:
    if settings.key_encryption_key is not None:
        return "KEY_ENCRYPTION_KEY"
    return f"KEY_ENCRYPTION_KEY_FILE, {os.fspath(settings.kek_file)}"


def _required_actions(services: Services, uses: list[key_rotation.KeyUse]) -> list[str]:
    actions: list[str] = []
    primary = next((use for use in uses if use.is_primary), None)
    if primary is None:
        return ["No primary key yet: the first process to start uses the first key."]
    file = KeyFile(services.settings.kek_file)
    retired = [use for use in uses if use.is_needed and not use.held and file.copy_of(use.key_id).exists()]
    actions += [
        f"Key {use.key_id} is needed again, for example after a restore: add the line in {file.copy_of(use.key_id)} to "
        f"{_source(services.settings)}, then run `certcourier keys rotate`."
        for use in retired
    ]
    if not primary.held:
        if primary not in retired:
            actions.append(
                f"Key {primary.key_id} is missing on this host: restore it. "
                "If it is permanently lost, run `certcourier keys replace --lost`."
            )
    elif services.encryptor.key_id != primary.key_id or any(
        use.held and use.is_needed and not use.is_primary for use in uses
    ):
        actions.append("A key rotation is incomplete: run `certcourier keys rotate`.")
    elif unneeded := {use.key_id for use in uses if use.held and not use.is_needed}:
        if services.settings.key_encryption_key is None:
            actions.append("A key is no longer in use: run `certcourier keys drop`.")
        else:
            actions.append(f"Manual steps: {key_rotation.manual_steps(unneeded)}.")
    count = sum(1 for _ in services.private_keys.undecryptable_ids(services.database))
    if count:
        actions.append(
            f"{counted(count, 'private key')} cannot be decrypted: "
            "run `certcourier certificates refetch --all-unreadable`."
        )
    missing = key_rotation.workers_missing_key(services.database, primary.key_id)
    if missing:
        actions.append(f"These workers do not have key {primary.key_id}: {', '.join(missing)}.")
    return actions
