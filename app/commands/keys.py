"""`flask keys`."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click
from flask.cli import AppGroup

from app.commands.output import as_json_option, counted, current_services, operator, print_rows, progress_bar
from app.crypto.encryption import Encryptor
from app.crypto.keyring import KeyFile
from app.crypto.secret_files import read_secret
from app.errors import CertcourierError
from app.operations import key_rotation
from app.services import Services

group = AppGroup("keys", help="The key-encryption keys, under which private keys are sealed in the database.")


@group.command("status", epilog="Example: flask keys status")
def status() -> None:
    """Say whether all private keys can be opened, and what to do if not; exits with 1 then."""
    services = current_services()
    uses = key_rotation.key_uses(services)
    to_do = _to_do(services, uses)
    click.echo(f"Keys come from {_source(services)}.")
    for use in uses:
        role = "seals" if use.seals else "opens"
        held = role if use.held else "is not held here"
        encrypted = f"{counted(use.certificates, 'certificate')}, {counted(use.webhook_secrets, 'webhook secret')}"
        click.echo(f"  {use.key_id}  {held}; {encrypted}")
    for line in to_do or ["Every private key on record is sealed under one key, which is held here."]:
        click.echo(line)
    for copy in KeyFile(services.settings.kek_file).copies():
        click.echo(_move(copy))
    if to_do:
        raise SystemExit(1)


@group.command("list", epilog="Example: flask keys list")
@as_json_option
def list_keys(as_json: bool) -> None:
    """List the keys that are held or needed by their IDs, which do not tell them."""
    rows = [
        {
            "key_id": use.key_id,
            "seals": use.seals,
            "held": use.held,
            "certificates": use.certificates,
            "webhook_secrets": use.webhook_secrets,
        }
        for use in key_rotation.key_uses(current_services())
    ]
    print_rows(rows, as_json=as_json, empty="No keys.")


@group.command("new", epilog="Example: flask keys new > new.key")
def new_key() -> None:
    """Print a fresh key, for files and variables that are changed by hand; it is kept nowhere."""
    click.echo(Encryptor.new_key())


@group.command("rotate", epilog="Example: flask keys rotate")
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the key in this file; by default a fresh one is made.",
)
@click.option(
    "--wait", type=click.IntRange(0), default=60, show_default=True, help="Seconds to wait for all workers' consent."
)
def rotate(key_file: Path | None, wait: int) -> None:
    """Seal everything under another key while the service runs. If interrupted, run it again: it goes on."""
    services = current_services()
    try:
        with _changing(services):
            _rotate(services, read_secret(key_file) if key_file else None, wait)
            _drop_old(services)
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None


def _rotate(services: Services, given: str | None, wait: int) -> None:
    begun = key_rotation.begin(services, given)
    click.echo(f"{'Going on with' if begun.resumed else 'New'} key {begun.key_id}.")
    _wait_for_workers(services, begun.key_id, wait)
    with services.database.write() as session:
        key_rotation.switch(services, session, begun.key_id, actor=operator())
    count = key_rotation.owed(services)
    with progress_bar(count, "Sealing anew") as bar:
        for encrypted in key_rotation.reencrypt_all(services):
            bar.update(encrypted)
    click.echo(f"Everything that could be opened is sealed under key {begun.key_id}.")


def _wait_for_workers(services: Services, key_id: str, wait: int) -> None:
    until = time.monotonic() + wait
    while without := key_rotation.workers_missing_key(services, key_id):
        if time.monotonic() >= until:
            raise click.ClickException(
                f"these workers do not hold key {key_id} yet: {', '.join(without)}. Bring it to their hosts "
                f"({_source(services)}), then run this again"
            )
        time.sleep(0.2)


def _drop_old(services: Services) -> None:
    unneeded = {use.key_id for use in key_rotation.key_uses(services) if use.held and not use.is_needed}
    if not unneeded:
        return
    if services.settings.key_encryption_key is not None:
        click.echo(f"Now by hand: {key_rotation.manual_steps(unneeded)}.")
        return
    with services.database.write() as session:
        copies = key_rotation.drop(services, session, unneeded, actor=operator())
    _say_dropped(services, unneeded, copies)


def _say_dropped(services: Services, key_ids: set[str], copies: list[Path]) -> None:
    click.echo(f"Took {', '.join(sorted(key_ids))} out of {services.settings.kek_file}.")
    for copy in copies:
        click.echo(_move(copy))


def _move(copy: Path) -> str:
    return (
        f"{copy} holds an old key, which backups of the database from before need: "
        "move it to where the backups' keys are, away from this host."
    )


@group.command("drop", epilog="Example: flask keys drop")
@click.argument("key_ids", metavar="[KEY_ID]...", nargs=-1)
def drop(key_ids: tuple[str, ...]) -> None:
    """Take keys that nothing is sealed under out of the file, each into one of its own; by default all of those."""
    services = current_services()
    held = {use.key_id: use for use in key_rotation.key_uses(services) if use.held}
    unknown = [key_id for key_id in key_ids if key_id not in held]
    if unknown:
        raise click.ClickException(f"no key {', '.join(unknown)} is held here; see `flask keys list`")
    chosen = set(key_ids) or {key_id for key_id, use in held.items() if not use.is_needed}
    if not chosen:
        click.echo("Every key is needed.")
        return
    try:
        with _changing(services), services.database.write() as session:
            copies = key_rotation.drop(services, session, chosen, actor=operator())
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    _say_dropped(services, chosen, copies)


@group.command("replace", epilog="Example: flask keys replace --lost")
@click.option("--lost", is_flag=True, required=True, help="Say that the key to seal under is lost for good.")
def replace(lost: bool) -> None:  # noqa: ARG001, it is there to be typed
    """Go on under the key that is held now; what only the lost one opens has to be fetched again."""
    services = current_services()
    try:
        with services.database.write() as session:
            gone = key_rotation.replace_lost(services, session, actor=operator())
    except CertcourierError as error:
        raise click.ClickException(str(error)) from None
    count = sum(1 for _ in key_rotation.undecryptable(services))
    click.echo(f"Key {gone} is given up; {services.encryptor.key_id} seals from now on.")
    click.echo("Should it be found again: add it as a second line, then `flask keys rotate` opens what it can.")
    click.echo(
        f"Start web and worker, then fetch {counted(count, 'private key')}: flask certificates refetch --all-unreadable"
    )


def _changing(services: Services) -> AbstractContextManager[None]:
    """Keep other commands from changing the file meanwhile, if it is a file."""
    return (
        KeyFile(services.settings.kek_file).changing()
        if services.settings.key_encryption_key is None
        else nullcontext()
    )


def _source(services: Services) -> str:
    if services.settings.key_encryption_key is not None:
        return "KEY_ENCRYPTION_KEY"
    return f"KEY_ENCRYPTION_KEY_FILE, {os.fspath(services.settings.kek_file)}"


def _to_do(services: Services, uses: list[key_rotation.KeyUse]) -> list[str]:
    found: list[str] = []
    sealing = next((use for use in uses if use.seals), None)
    if sealing is None:
        return ["No process has started yet; the first one takes the first key."]
    file = KeyFile(services.settings.kek_file)
    taken_out = [use for use in uses if use.is_needed and not use.held and file.copy_of(use.key_id).exists()]
    found += [
        f"Key {use.key_id} is needed again, as after a restore: add the line in {file.copy_of(use.key_id)} to "
        f"{_source(services)}, then run `flask keys rotate`."
        for use in taken_out
    ]
    if not sealing.held:
        if sealing not in taken_out:
            lost = "If it is lost for good: `flask keys replace --lost`."
            found.append(f"Key {sealing.key_id} is not held here: restore it. {lost}")
    elif services.encryptor.key_id != sealing.key_id or any(
        use.held and use.is_needed and not use.seals for use in uses
    ):
        found.append("A rotation is not complete: run `flask keys rotate`.")
    elif unneeded := {use.key_id for use in uses if use.held and not use.is_needed}:
        if services.settings.key_encryption_key is None:
            found.append("A key is not needed any more: run `flask keys drop`.")
        else:
            found.append(f"By hand: {key_rotation.manual_steps(unneeded)}.")
    count = sum(1 for _ in key_rotation.undecryptable(services))
    if count:
        found.append(
            f"{counted(count, 'private key')} cannot be opened: run `flask certificates refetch --all-unreadable`."
        )
    missing = key_rotation.workers_missing_key(services, sealing.key_id)
    if missing:
        found.append(f"These workers do not hold key {sealing.key_id}: {', '.join(missing)}.")
    return found
