"""Every layout of the files destination keeps the same promises, also when it is killed at any of its steps."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from pydantic import ValidationError

from app.crypto.private_key import PrivateKey
from app.destinations.base import Bundle, DestinationRefusedError, DestinationUnavailableError, Version
from app.destinations.files.destination import FilesConfig, FilesDestination
from tests.support.layout_files import LAYOUTS, PASSWORD, make_files, read_pair
from tests.support.x509 import Authority

AUTHORITY = Authority()
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users: run as root")
NOBODY = pwd.getpwnam("nobody")


def bundle(number: int) -> Bundle:
    """A real certificate; a higher number is newer."""
    issued = AUTHORITY.issue("www.example.com", start=START + timedelta(days=number))
    return Bundle(
        slot="www.example.com",
        version=Version(START + timedelta(days=number), 1000 + number),
        names=("www.example.com",),
        fingerprint="",
        leaf_pem=issued.leaf,
        chain_pem="".join(issued.chain),
        key=PrivateKey(issued.key),
    )


def leaf(bundle: Bundle) -> x509.Certificate:
    return x509.load_pem_x509_certificate(bundle.leaf_pem.encode())


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


@pytest.fixture
def files(root: Path, layout: str) -> FilesDestination:
    return make_files(root, layout)


def test_a_server_reads_a_whole_pair_after_the_first_delivery(files: FilesDestination, root: Path, layout: str) -> None:
    first = bundle(1)
    files.check()
    assert files.deliver(first).outcome == "delivered"
    assert read_pair(root, layout) == leaf(first)


def test_a_renewal_replaces_it_and_delivering_it_twice_changes_nothing(
    files: FilesDestination, root: Path, layout: str
) -> None:
    second = bundle(2)
    files.deliver(bundle(1))
    files.deliver(second)
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*") if path.is_file())
    assert files.deliver(second).outcome == "delivered"
    assert read_pair(root, layout) == leaf(second)
    after = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*") if path.is_file())
    assert [entry for entry in after if entry[0].name != ".lock"] == [e for e in before if e[0].name != ".lock"]


def test_an_older_certificate_never_replaces_a_newer_one(files: FilesDestination, root: Path, layout: str) -> None:
    second = bundle(2)
    files.deliver(second)
    assert files.deliver(bundle(1)).outcome == "superseded"
    assert read_pair(root, layout) == leaf(second)


def test_what_was_damaged_is_replaced_by_the_next_delivery(files: FilesDestination, root: Path, layout: str) -> None:
    first = bundle(1)
    files.deliver(first)
    for path in (root / "www.example.com" / "current").resolve().iterdir():
        path.write_bytes(b"half")
    for path in root.glob("*.yml"):
        path.write_text("half")
    files.deliver(first)
    assert read_pair(root, layout) == leaf(first)


@pytest.mark.chaos
def test_killed_at_any_step_readers_see_a_whole_pair_and_the_next_delivery_heals(
    files: FilesDestination, root: Path, layout: str
) -> None:
    old, new = bundle(1), bundle(2)
    steps = 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        files.deliver(old)
        killed = deliver_and_die_at(steps, files, new)
        assert read_pair(root, layout) in {leaf(old), leaf(new)}
        files.deliver(new)
        assert read_pair(root, layout) == leaf(new)
        assert [path for path in root.rglob(".*") if path.name != ".lock"] == []
        if not killed:
            break
        steps += 1
    assert steps > 10  # it was killed at that many places


def deliver_and_die_at(step: int, files: FilesDestination, new: Bundle) -> bool:
    """In a child process that kills itself as its file operation number `step` begins. Whether there was one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads: the child touches files only
        child = os.fork()
    if child == 0:
        begun = 0

        def count(event: str, _: Any) -> None:
            nonlocal begun
            if event == "open" or event.startswith(("os.", "shutil.", "fcntl.")):
                begun += 1
                if begun == step + 1:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            files.deliver(new)
        except BaseException:  # noqa: BLE001, a child never continues its parent's work
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status != 0


def test_a_reader_at_any_instant_sees_a_whole_pair(files: FilesDestination, root: Path, layout: str) -> None:
    files.deliver(bundle(0))
    stop, wrong = threading.Event(), []

    def poll() -> None:
        while not stop.is_set():
            try:
                read_pair(root, layout)
            except AssertionError as error:
                wrong.append(error)

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(1, 30):
        files.deliver(bundle(number))
    stop.set()
    reader.join()
    assert wrong == []


def test_nobody_but_the_owner_may_read_a_key(files: FilesDestination, root: Path, layout: str) -> None:
    files.deliver(bundle(1))
    for path in (path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        public = path.name in {"fullchain.pem", "cert.pem", "chain.pem", "www.example.com.yml"}
        assert (stat.S_IMODE(path.stat().st_mode) & 0o077 == 0) is not public, path
    assert layout


@ROOT_ONLY
def test_files_and_folders_get_the_owner_group_and_modes_named(root: Path, layout: str) -> None:
    more = {"owner": "nobody", "group": "daemon", "mode": "0640", "public_mode": "0444", "folder_mode": "0750"}
    files = make_files(root, layout, **more)
    files.check()
    files.deliver(bundle(1))
    current = (root / "www.example.com" / "current").resolve()
    for folder in (root, root / "www.example.com", current.parent):  # where no other user may create a link in our way
        found = folder.stat()
        assert (found.st_uid, folder.group(), stat.S_IMODE(found.st_mode)) == (os.geteuid(), "daemon", 0o751)
    found = current.stat()
    assert (found.st_uid, current.group(), stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, "daemon", 0o750)
    for path in [*current.iterdir(), *root.glob("*.yml")]:
        mode = 0o640 if path.name in {"privkey.pem", "combined", "keystore.p12"} else 0o444
        found = path.stat()
        assert (found.st_uid, path.group(), stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, "daemon", mode), path


@pytest.mark.parametrize("name", [".lock", "versions"])
def test_no_link_in_a_slot_is_followed(root: Path, layout: str, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("as it was")
    slot = root / "www.example.com"
    slot.mkdir(parents=True)
    (slot / name).symlink_to(elsewhere / "precious" if name == ".lock" else elsewhere)
    with pytest.raises((DestinationRefusedError, DestinationUnavailableError)):
        make_files(root, layout).deliver(bundle(1))
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "as it was"


@ROOT_ONLY
def test_the_next_delivery_gives_what_is_there_the_modes_of_a_changed_configuration(root: Path, layout: str) -> None:
    first = bundle(1)
    make_files(root, layout).deliver(first)
    make_files(root, layout, group="daemon", mode="0640").deliver(first)
    for path in (root / "www.example.com" / "current").iterdir():
        assert path.resolve().group() == "daemon"
    assert read_pair(root, layout) == leaf(first)


@ROOT_ONLY
def test_who_may_not_give_files_away_is_told_at_the_start_and_at_a_delivery(layout: str) -> None:
    """As the user nobody, in a process of its own."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from tests.support.fakes.deliveries import bundle; from tests.support.layout_files import make_files\n"
        "root = Path(sys.argv[1]); files = make_files(root, sys.argv[2], owner='root')\n"
        "os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[4]))\n"
        "for action in (files.check, lambda: files.deliver(bundle(1))):\n"
        "    try:\n"
        "        action()\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
        "print([path.name for path in root.rglob('*') if path.is_file()])\n"
    )
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
        arguments = [f"{place}/certificates", layout, str(NOBODY.pw_gid), str(NOBODY.pw_uid)]
        run = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    check, delivery, left = run.stdout.splitlines()
    assert check.startswith("DestinationRefusedError destination files: owner, group: this process may not")
    assert delivery.startswith("DestinationUnavailableError")
    assert ("run the worker as root" in delivery) or layout == "pkcs12"  # which cannot read its password either
    assert left == "['.lock']"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"owner": "nobody-of-that-name"}, "no user is named 'nobody-of-that-name'"),
        ({"group": "no-such-group"}, "no group is named 'no-such-group'"),
    ],
)
def test_a_name_that_this_machine_does_not_know_is_named(root: Path, fields: dict[str, str], message: str) -> None:
    files = FilesDestination(FilesConfig.model_validate({"path": root} | fields))
    with pytest.raises(DestinationRefusedError, match=message):
        files.check()
    with pytest.raises(DestinationUnavailableError, match=message):
        files.deliver(bundle(1))
    assert not root.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "0644"}, "would make private keys readable for everyone"),
        ({"mode": "rw"}, "octal digits"),
        ({"folder_mode": "99"}, "octal digits"),
        ({"layout": "pkcs12"}, "password_file"),
        ({"password_file": "x"}, "password_file"),
        ({"traefik_path": "/x"}, "traefik_path"),
        ({"layout": "jks"}, "layout"),
    ],
)
def test_a_configuration_that_cannot_work_is_named(root: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FilesConfig.model_validate({"path": root} | fields)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.chmod(0o640), "can be read or changed by others"),
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_text("short"), "at least 6 characters"),
    ],
)
def test_a_password_that_cannot_be_used_is_told_without_saying_it(root: Path, spoil: Any, message: str) -> None:
    files = make_files(root, "pkcs12")
    spoil(root.with_name("password"))
    with pytest.raises(DestinationRefusedError, match=message) as refused:
        files.check()
    with pytest.raises(DestinationUnavailableError, match=message):
        files.deliver(bundle(1))
    assert PASSWORD not in str(refused.value)


def test_another_password_makes_another_keystore_at_the_next_delivery(root: Path) -> None:
    files, first = make_files(root, "pkcs12"), bundle(1)
    root.with_name("password").write_text("the password before")
    files.deliver(first)
    root.with_name("password").write_text(PASSWORD)
    files.deliver(first)
    assert read_pair(root, "pkcs12") == leaf(first)


@pytest.mark.parametrize("store_type", ["PKCS12", "JKS"])
def test_java_reads_the_keystore_as_its_own_type_and_as_jks(root: Path, store_type: str) -> None:
    """What asks for a JKS keystore takes a PKCS#12 one (`keystore.type.compat`, on by default)."""
    if shutil.which("keytool") is None:
        pytest.skip("no Java: install Debian's package `default-jre-headless`")
    files = make_files(root, "pkcs12")
    files.deliver(bundle(1))
    password_file = root.with_name("password")
    store = str(files.places("www.example.com")["keystore"])
    listing = subprocess.run(
        ["keytool", "-list", "-v", "-keystore", store, "-storetype", store_type, "-storepass:file", str(password_file)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "Entry type: PrivateKeyEntry" in listing
    assert "Alias name: www.example.com" in listing
    assert "Certificate chain length: 2" in listing


def test_openssl_reads_the_keystore(root: Path) -> None:
    files = make_files(root, "pkcs12")
    files.deliver(bundle(1))
    store, password_file = root / "www.example.com" / "keystore.p12", root.with_name("password")
    command = ["openssl", "pkcs12", "-in", str(store), "-passin", f"file:{password_file}", "-nodes"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert found.count("BEGIN CERTIFICATE") == 2
    assert found.count("PRIVATE KEY-----") == 2


def test_traefik_is_told_of_the_paths_that_it_sees(root: Path) -> None:
    files = make_files(root, "traefik", traefik_path="/certificates")
    files.deliver(bundle(1))
    version = (root / "www.example.com" / "current").resolve().name
    text = (root / "www.example.com.yml").read_text()
    assert f'certFile: "/certificates/www.example.com/versions/{version}/fullchain.pem"' in text
