"""The SSH destination against OpenSSH's own server: whole versions, one flip, pinned host keys."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import ValidationError

from app.destinations.base import Bundle, DeliveryResult, DestinationRefusedError, DestinationUnavailableError
from app.destinations.files.destination import FilesConfig, FilesDestination
from app.destinations.slots import parse_version
from app.destinations.ssh.destination import SshConfig, SshDestination
from app.destinations.ssh.remote_slot import FILES
from tests.support.bundles import bundle, expected_pem_files, pem_files
from tests.support.pushing import Push, pusher
from tests.support.ssh_server import SshServer, ssh_server

SLOT = "www.example.com"
KIND = "app.destinations.ssh.destination:SshDestination"
# Before each of these the far machine is as the one before it left it; what only looks adds no state.
NAMING = tuple(f"asyncssh:SFTPClient.{name}" for name in ("mkdir", "symlink", "posix_rename"))
POINTS = (
    *NAMING,
    *(f"asyncssh:SFTPClient.{name}" for name in ("open", "chmod", "remove", "rmdir")),
    "asyncssh:SFTPClientFile.write",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def config(server: SshServer, tmp_path: Path) -> dict[str, Any]:
    """What the destinations file says; the path is this test's own."""
    return server.config(path=str(tmp_path / "certificates"), keep_versions=2)


@pytest.fixture
def slot(config: dict[str, Any]) -> Path:
    """The far machine's slot, seen without SSH."""
    return Path(config["path"]) / SLOT


def push(config: dict[str, Any], given: Bundle, **more: Any) -> DeliveryResult:
    return SshDestination(SshConfig.model_validate(config | more)).deliver(given)


def leftovers(slot: Path) -> list[str]:
    """What is there beside the layout; an empty `.turn` is part of it."""
    found = [path.name for folder in (slot, slot / "versions") for path in folder.glob(".*") if path.name != ".turn"]
    turn = slot / ".turn"
    return found + ([path.name for path in turn.iterdir()] if turn.exists() else [])


def test_the_four_files_are_there_after_a_first_delivery(config: dict[str, Any], slot: Path) -> None:
    result = push(config, bundle(1))
    assert result == DeliveryResult("delivered", f"127.0.0.1:{slot}")
    assert pem_files(slot) == expected_pem_files(1)
    assert leftovers(slot) == []


def test_only_its_owner_can_read_the_key(config: dict[str, Any], slot: Path) -> None:
    push(config, bundle(1))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in slot.glob("*.pem")}
    assert modes == {"privkey.pem": 0o600, "fullchain.pem": 0o644, "cert.pem": 0o644, "chain.pem": 0o644}
    assert stat.S_IMODE((slot / "current").resolve().stat().st_mode) == 0o755


@pytest.mark.parametrize("umask", ["0000", "0077"])
def test_modes_do_not_depend_on_the_umask_of_the_machine(tmp_path: Path, umask: str) -> None:
    with ssh_server(tmp_path / "ssh", subsystem=f"internal-sftp -u {umask}") as machine:
        push(machine.config(), bundle(1))
        slot = machine.home / "certificates" / SLOT
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in slot.glob("*.pem")}
    assert modes == {"privkey.pem": 0o600, "fullchain.pem": 0o644, "cert.pem": 0o644, "chain.pem": 0o644}


def test_the_key_has_its_mode_before_it_has_its_content(config: dict[str, Any], slot: Path) -> None:
    opened = 0
    with pusher() as process:  # killed at each write: four files were made and hold nothing yet
        for kill_at in range(1, 5):
            assert process.killed(Push(KIND, config, bundle(1), ("asyncssh:SFTPClientFile.write",), kill_at))
            for file in (slot / "versions").glob(".new-*/privkey.pem"):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
                opened += file.stat().st_size == 0
    assert opened


def test_a_renewal_takes_the_place_of_the_older_one(config: dict[str, Any], slot: Path) -> None:
    push(config, bundle(1))
    push(config, bundle(2))
    assert pem_files(slot) == expected_pem_files(2)
    assert parse_version((slot / "current").readlink().name) == bundle(2).version


def test_an_older_certificate_never_replaces_a_newer_one(config: dict[str, Any], slot: Path) -> None:
    push(config, bundle(2))
    result = push(config, bundle(1), command=("touch", str(slot / "commanded")))
    assert result.outcome == "superseded"
    assert pem_files(slot) == expected_pem_files(2)
    assert not (slot / "commanded").exists()


def test_delivering_twice_leaves_the_version_as_it_is(config: dict[str, Any], slot: Path) -> None:
    push(config, bundle(1))
    before = (slot / "current").resolve().stat()
    assert push(config, bundle(1)).outcome == "delivered"
    assert (slot / "current").resolve().stat() == before


def test_previous_versions_are_kept_up_to_the_number(config: dict[str, Any], slot: Path) -> None:
    for number in range(1, 6):
        push(config, bundle(number))
    assert [path.name.rpartition("-")[2] for path in sorted((slot / "versions").iterdir())] == ["1003", "1004", "1005"]


def test_a_version_that_somebody_changed_is_replaced(config: dict[str, Any], slot: Path) -> None:
    push(config, bundle(1))
    (slot / "privkey.pem").write_text("damaged")
    push(config, bundle(1))
    assert pem_files(slot) == expected_pem_files(1)
    assert leftovers(slot) == []


def test_the_layout_is_that_of_the_files_destination(config: dict[str, Any], slot: Path, tmp_path: Path) -> None:
    files = FilesDestination(FilesConfig(path=tmp_path / "here"))
    files.deliver(bundle(1))
    push(config, bundle(1))
    assert tree(slot) == tree(tmp_path / "here" / SLOT)
    files_in_its_folder = FilesDestination(FilesConfig(path=Path(config["path"])))
    files_in_its_folder.deliver(bundle(2))
    assert files_in_its_folder.deliver(bundle(1)).outcome == "superseded"


def tree(slot: Path) -> dict[str, str]:
    found = {}
    for folder, folders, names in os.walk(slot):
        for name in (*folders, *names):
            path = Path(folder) / name
            shown = str(path.relative_to(slot))
            if not shown.startswith("."):
                found[shown] = f"-> {path.readlink()}" if path.is_symlink() else f"{path.stat().st_mode:o}"
    return found


@pytest.mark.chaos
def test_a_push_that_was_killed_anywhere_leaves_a_whole_pair_and_the_next_one_clears_up(
    config: dict[str, Any], slot: Path
) -> None:
    push(config, bundle(0))
    number, kill_at, killed = 1, 1, True
    with pusher() as process:
        while killed:
            killed = process.killed(Push(KIND, config, bundle(number), POINTS, kill_at))
            assert pem_files(slot) in (expected_pem_files(number - 1), expected_pem_files(number))
            destination = SshDestination(SshConfig.model_validate(config), patience=0.01)
            assert destination.deliver(bundle(number)).outcome == "delivered"
            assert pem_files(slot) == expected_pem_files(number)
            assert leftovers(slot) == []
            number, kill_at = number + 1, kill_at + 1
    assert kill_at > 15  # all the way through


@pytest.mark.chaos
def test_a_first_push_that_was_killed_anywhere_is_made_good(config: dict[str, Any], tmp_path: Path) -> None:
    kill_at, killed = 1, True
    with pusher() as process:
        while killed:
            fresh = config | {"path": str(tmp_path / f"far-{kill_at}")}
            killed = process.killed(Push(KIND, fresh, bundle(1), NAMING, kill_at))
            destination = SshDestination(SshConfig.model_validate(fresh), patience=0.01)
            assert destination.deliver(bundle(1)).outcome == "delivered"
            slot = Path(fresh["path"]) / SLOT
            assert pem_files(slot) == expected_pem_files(1)
            assert leftovers(slot) == []
            kill_at += 1
    assert kill_at > 10


def test_writers_of_one_slot_leave_the_newest(config: dict[str, Any], slot: Path) -> None:
    push(config, bundle(0))
    seen: list[int] = []

    def deliver(number: int) -> None:
        while True:  # as the job engine does
            try:
                push(config, bundle(number))
            except DestinationUnavailableError as error:
                assert error.retry_after == 1.0, error  # noqa: PT017
            else:
                seen.append(number)
                return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(deliver, [3, 6, 1, 5, 6, 4]))
    assert sorted(seen) == [1, 3, 4, 5, 6, 6]
    assert pem_files(slot) == expected_pem_files(6)
    assert leftovers(slot) == []


def test_a_writer_that_was_taken_for_dead_cannot_flip_any_more(
    config: dict[str, Any], slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one has the turn and has seen nothing newer; then it stands still, and a newer one comes through."""
    impatient = SshDestination(SshConfig.model_validate(config), patience=0.01)
    rename, paused = asyncssh.SFTPClient.posix_rename, False

    async def standing_still(self: asyncssh.SFTPClient, oldpath: str, newpath: str) -> None:
        nonlocal paused
        if posixpath.basename(newpath) == "current" and not paused:
            paused = True
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(impatient.deliver, bundle(2)).result().outcome == "delivered"
        await rename(self, oldpath, newpath)

    monkeypatch.setattr(asyncssh.SFTPClient, "posix_rename", standing_still)
    with pytest.raises(DestinationUnavailableError, match="another writer took the turn"):
        push(config, bundle(1))
    assert paused
    assert pem_files(slot) == expected_pem_files(2)
    assert push(config, bundle(1)).outcome == "superseded"
    assert leftovers(slot) == []


def test_a_command_knows_what_was_delivered_and_needs_no_quoting(config: dict[str, Any], slot: Path) -> None:
    script = 'echo "$CERTCOURIER_LINEAGE $CERTCOURIER_FINGERPRINT $CERTCOURIER_PATH"; printf "<%s>" "$@"; cat'
    result = push(config, bundle(1), command=("sh", "-c", script, "sh", "a b", "$(id)", "';x", "*"))
    about = f"www.example.com {bundle(1).fingerprint} {slot}"
    assert result.detail == f"127.0.0.1:{slot}; command succeeded: {about} <a b><$(id)><';x><*>"


def test_a_command_that_fails_is_a_delivery_that_is_retried_and_then_runs_again(
    config: dict[str, Any], slot: Path
) -> None:
    script = f'if mkdir {slot}/tried 2>/dev/null; then echo "no such unit" >&2; exit 3; fi; echo reloaded'
    with pytest.raises(DestinationUnavailableError, match=r"files are in place.*ended with status 3: no such unit"):
        push(config, bundle(1), command=("sh", "-c", script))
    assert pem_files(slot) == expected_pem_files(1)
    assert push(config, bundle(1), command=("sh", "-c", script)).detail.endswith("command succeeded: reloaded")


def test_a_command_that_is_killed_or_missing_is_a_failure(config: dict[str, Any]) -> None:
    with pytest.raises(DestinationUnavailableError, match="ended with signal KILL"):
        push(config, bundle(1), command=("sh", "-c", "kill -9 $$"))
    with pytest.raises(DestinationUnavailableError, match="ended with status 127"):
        push(config, bundle(1), command=("no-such-program",))


def test_of_a_long_output_the_end_is_kept(config: dict[str, Any]) -> None:
    result = push(config, bundle(1), command=("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"))
    assert result.detail.endswith("xxx end")
    assert len(result.detail) < 2500


def test_a_command_that_does_not_end_is_given_up(config: dict[str, Any], slot: Path) -> None:
    with pytest.raises(DestinationUnavailableError, match="not finished in time"):
        push(config, bundle(1), command=("sleep", "1000"), timeout_seconds=2)
    assert pem_files(slot) == expected_pem_files(1)


def test_sftp_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with (
        ssh_server(tmp_path / "ssh", subsystem="/bin/sleep 1000") as silent,
        pytest.raises(DestinationUnavailableError, match="not finished in time"),
    ):
        push(silent.config(timeout_seconds=2), bundle(1))


def test_sftp_that_stops_in_the_middle_is_given_up(tmp_path: Path) -> None:
    stops = "sh -c 'head -c 400 | /usr/lib/openssh/sftp-server; sleep 1000'"
    with (
        ssh_server(tmp_path / "ssh", subsystem=stops) as silent,
        pytest.raises(DestinationUnavailableError, match="not finished in time"),
    ):
        push(silent.config(timeout_seconds=2), bundle(1))


def test_a_server_without_sftp_is_named(tmp_path: Path) -> None:
    with (
        ssh_server(tmp_path / "ssh", subsystem="/bin/false") as without,
        pytest.raises(DestinationUnavailableError, match=r"destination far: 127.0.0.1 port"),
    ):
        push(without.config(), bundle(1))


def test_sftp_without_renaming_over_what_exists_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh", subsystem="internal-sftp -P posix-rename") as limited:
        with pytest.raises(DestinationRefusedError, match="must support posix-rename@openssh"):
            push(limited.config(), bundle(1))
        assert leftovers(limited.home / "certificates" / SLOT) == []


def test_a_wrong_login_key_is_refused_with_the_remedy(config: dict[str, Any], server: SshServer) -> None:
    with pytest.raises(DestinationRefusedError, match=r"rejected the login of .* with private_key_file; add its"):
        push(config, bundle(1), private_key_file=server.new_key("stranger"))


def test_a_machine_with_another_host_key_gets_nothing(config: dict[str, Any], server: SshServer, slot: Path) -> None:
    other = Path(f"{server.new_key('other')}.pub").read_text()
    fingerprint = asyncssh.import_public_key(server.public_key).get_fingerprint("sha256")
    for pin in (other, asyncssh.import_public_key(other).get_fingerprint("sha256")):
        with pytest.raises(DestinationRefusedError, match="not in host_keys") as refused:
            push(config, bundle(1), host_keys=(pin,))
        assert f"ssh-ed25519 {fingerprint}" in str(refused.value)
    assert not slot.exists()


def test_a_host_key_that_changed_is_no_longer_trusted(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh") as machine:
        config = machine.config()
        push(config, bundle(1))
        machine.stop()
        new = machine.new_host_key()
        machine.start()
        with pytest.raises(DestinationRefusedError, match="not in host_keys"):
            push(config, bundle(2))
        assert push(config | {"host_keys": (*config["host_keys"], new)}, bundle(2)).outcome == "delivered"


def test_a_machine_that_lacks_the_pinned_kind_of_key_shows_which_it_has(config: dict[str, Any]) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    with pytest.raises(DestinationRefusedError, match="presented the host key ssh-ed25519 SHA256:"):
        push(config, bundle(1), host_keys=(other,))


@pytest.mark.parametrize("form", ["{key}", "far.example.com {key}", "{key} root@far", "{fingerprint}"])
def test_host_keys_are_given_as_the_usual_tools_print_them(
    config: dict[str, Any], server: SshServer, form: str
) -> None:
    key = " ".join(server.public_key.split()[:2])
    fingerprint = asyncssh.import_public_key(server.public_key).get_fingerprint("sha256")
    pin = form.format(key=key, fingerprint=fingerprint)
    assert push(config, bundle(1), host_keys=(pin,)).outcome == "delivered"


@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp384"])
def test_host_keys_of_every_usual_kind_are_known_by_line_and_by_fingerprint(tmp_path: Path, kind: str) -> None:
    with ssh_server(tmp_path / "ssh") as machine:
        machine.stop()
        line = machine.new_host_key(kind)
        machine.start()
        for pin in (line, asyncssh.import_public_key(line).get_fingerprint("sha256")):
            assert push(machine.config(host_keys=(pin,)), bundle(1)).outcome == "delivered"


@pytest.mark.parametrize("pin", ["", "SHA256:short", "ssh-ed25519", "ssh-ed25519 AAAA", "MD5:00:11"])
def test_a_host_key_that_is_none_is_refused(config: dict[str, Any], pin: str) -> None:
    with pytest.raises(ValidationError, match="must be `SHA256"):
        SshConfig.model_validate(config | {"host_keys": (pin,)})
    with pytest.raises(ValidationError):
        SshConfig.model_validate(config | {"host_keys": ()})


def test_a_login_key_that_others_can_read_or_that_is_none_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.touch(mode=0o640)
    destination = SshDestination(SshConfig.model_validate(config | {"private_key_file": file}))
    with pytest.raises(DestinationRefusedError, match=r"private_key_file: .*chmod 600"):
        destination.check()
    file.chmod(0o600)
    with pytest.raises(DestinationRefusedError, match="is empty"):
        destination.check()
    file.write_text("not a key")
    with pytest.raises(DestinationRefusedError, match="is not a private key without passphrase"):
        destination.check()
    file.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key("pkcs8-pem", "secret"))
    with pytest.raises(DestinationRefusedError, match="is not a private key without passphrase"):
        destination.check()
    file.unlink()
    with pytest.raises(DestinationRefusedError, match=r"private_key_file: .*No such file"):
        destination.check()


def test_a_good_configuration_passes_and_changes_nothing(config: dict[str, Any], slot: Path) -> None:
    SshDestination(SshConfig.model_validate(config)).check()
    assert not slot.parent.exists()


def test_a_machine_that_is_away_is_tried_again(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh") as machine:
        machine.stop()
        with pytest.raises(DestinationUnavailableError, match=r"destination far: 127.0.0.1 port"):
            push(machine.config(), bundle(1))
        machine.start()
        assert push(machine.config(), bundle(1)).outcome == "delivered"


def test_a_folder_that_cannot_be_written_is_tried_again(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DestinationUnavailableError, match="check that the disk has room"):
        push(config, bundle(1), path=str(tmp_path / "file" / "certificates"))


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "-x", "A"])
def test_a_slot_that_could_escape_is_refused(config: dict[str, Any], name: str) -> None:
    with pytest.raises(DestinationRefusedError, match="is not a safe name for a slot"):
        push(config, bundle(1, name))
    assert not Path(config["path"]).exists()


def test_files_that_were_no_links_are_replaced_by_links(config: dict[str, Any], slot: Path) -> None:
    slot.mkdir(parents=True)
    for name in FILES:
        (slot / name).write_text("by hand")
    push(config, bundle(1))
    assert pem_files(slot) == expected_pem_files(1)
    assert all((slot / name).is_symlink() for name in FILES)
