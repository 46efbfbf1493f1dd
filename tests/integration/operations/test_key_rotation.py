"""The key-encryption key is replaced while everything goes on; what was interrupted is taken up; nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import delete, select, update

from app import create_app
from app.crypto.encryption import DecryptionError, Encryptor, KeyNotHeldError, key_id_of
from app.crypto.keyring import KeyFile, encryption_key_id
from app.crypto.webhook_secrets import PROPAGATION_SECONDS
from app.db.clock import db_now
from app.db.models import Certificate, WebhookSecret
from app.db.models import Worker as WorkerRow
from app.errors import PermanentError
from app.jobs.kinds import JobKind
from app.operations import key_rotation
from app.operations.health import claim_installation
from app.services import Services
from app.worker.worker import Worker
from config import Settings
from tests.support.command_line import run
from tests.support.encrypted_keys import (
    COUNT,
    add_encrypted_keys,
    assert_all_decrypt,
    decrypt_key,
    encrypt_key,
    encrypted_keys,
    key_file_copies,
    key_ids,
    pem,
    reopened,
)
from tests.support.harness import drain, event, make_due, make_settings
from tests.support.simulator_process import Simulator
from tests.support.stack import ROOT

pytestmark = pytest.mark.both_databases


def test_everything_is_encrypted_again_and_the_old_key_is_dropped(app: Flask, services: Services) -> None:
    add_encrypted_keys(services)
    old = services.encryptor.key_id
    secret = services.webhook_secrets.current()
    output = run(app, "keys", "rotate")
    assert f"Removed {old} from" in output
    assert key_ids(services) != [old]
    assert_all_decrypt(services)
    assert reopened(services).webhook_secrets.current() == secret
    assert "under the primary key" in run(app, "keys", "status")
    (row,) = json.loads(run(app, "keys", "list", "--json"))
    assert (row["primary"], row["available"], row["certificates"], row["webhook_secrets"]) == (True, True, COUNT, 1)


def test_the_file_keeps_its_mode(app: Flask, services: Services) -> None:
    run(app, "keys", "rotate")
    assert services.settings.kek_file.stat().st_mode & 0o777 == 0o600
    assert list(services.settings.kek_file.parent.glob(".key-encryption*")) == []


def test_a_given_key_is_used(app: Flask, services: Services, tmp_path: Path) -> None:
    key = Encryptor.new_key()
    file = tmp_path / "new.key"
    file.write_text(key)
    file.chmod(0o600)
    add_encrypted_keys(services, 3)
    run(app, "keys", "rotate", "--key-file", str(file))
    assert services.settings.kek_file.read_text() == f"{key}\n"
    assert_all_decrypt(services, 3)


def test_a_running_process_decrypts_with_the_new_key(app: Flask, services: Services) -> None:
    """It has read the file before the rotation, and hears of it only by meeting the new key."""
    running = reopened(services)
    add_encrypted_keys(services, 1)
    run(app, "keys", "rotate")
    assert decrypt_key(running.encryptor, 1, encrypted_keys(services)[1]) == pem(1)
    running.database.close()


def test_keys_of_two_swapped_rows_do_not_decrypt(services: Services) -> None:
    add_encrypted_keys(services, 2)
    one, two = encrypted_keys(services).values()
    with services.database.write() as session:
        for number, blob in ((1, two), (2, one)):
            session.execute(update(Certificate).where(Certificate.id == number).values(encrypted_key=blob))
    for number, blob in encrypted_keys(services).items():
        with pytest.raises(DecryptionError, match="belongs to another"):
            decrypt_key(services.encryptor, number, blob)
    assert list(services.private_keys.undecryptable_ids(services.database)) == [1, 2]


@pytest.mark.chaos
@pytest.mark.parametrize("commit", range(1, 8))
def test_a_rotation_killed_at_any_commit_is_resumed(app: Flask, services: Services, commit: int) -> None:
    """The switch, the webhook's secret, three batches and a last look, the drop."""
    add_encrypted_keys(services)
    first = services.encryptor.key_id
    services.database.close()
    kill_at = f"""
import sys
from app import create_app
from tests.chaos.boundaries import die_at
app = create_app()
die_at(app.extensions["certcourier"].services.database, {commit}, "before")
app.test_cli_runner().invoke(args=["keys", "rotate"], catch_exceptions=False)
"""
    process = subprocess.run([sys.executable, "-c", kill_at], cwd=ROOT, env=environment(services.settings), check=False)
    assert process.returncode == -signal.SIGKILL
    run(app, "keys", "rotate")
    assert len(key_ids(services)) == 1
    assert key_ids(services) != [first]
    assert_all_decrypt(services)
    assert first in {key_id_of(copy.read_text().strip()) for copy in key_file_copies(services)}, (
        "for backups of the database"
    )


def environment(settings: Settings) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DNSIMPLE_API_TOKEN": settings.dnsimple_api_token.get_secret_value(),
        "DNSIMPLE_ACCOUNT_ID": str(settings.dnsimple_account_id),
        "DNSIMPLE_BASE_URL": settings.dnsimple_base_url,
        "PUBLIC_URL": settings.public_url,
        "DATABASE_URL": f"{settings.database_url}",
        "DATA_DIR": str(settings.data_dir),
    }


def test_what_is_encrypted_during_a_rotation_is_not_lost(app: Flask, services: Services) -> None:
    """A process that knows only the old file keeps sealing, as a worker does, while another one rotates twice."""
    add_encrypted_keys(services, 20)
    running, ending, number = reopened(services), threading.Event(), 20

    def keep_encrypting() -> None:
        nonlocal number
        while not ending.is_set():
            with running.database.write() as session:
                blob = encrypt_key(running.encryptor, number + 1, pem(number + 1), key_id=encryption_key_id(session))
                session.add(
                    Certificate(
                        id=number + 1,
                        account_id=1,
                        domain="d",
                        state="issued",
                        common_name="d",
                        names=[],
                        encrypted_key=blob,
                    )
                )
            number += 1

    thread = threading.Thread(target=keep_encrypting)
    thread.start()
    try:
        for _ in range(2):
            run(app, "keys", "rotate")
    finally:
        ending.set()
        thread.join()
    assert number > 20
    assert_all_decrypt(services, number)
    running.database.close()


def test_a_rotation_waits_until_every_worker_holds_the_new_key(app: Flask, services: Services) -> None:
    add_encrypted_keys(services, 1)
    first = services.encryptor.key_id
    with services.database.write() as session:
        session.add(WorkerRow(id="wrk_other", host="other-host", pid=7, key_ids=[first]))
    output = run(app, "keys", "rotate", "--wait", "0", status=1)
    assert "other-host (7)" in output
    with services.database.read() as session:
        assert encryption_key_id(session) == first, "nothing was switched"
    with services.database.write() as session:
        session.execute(update(WorkerRow).values(key_ids=key_ids(services)))
    assert "Continuing with" in run(app, "keys", "rotate")
    assert_all_decrypt(services, 1)


def test_a_worker_that_is_silent_is_not_waited_for(app: Flask, services: Services) -> None:
    with services.database.write() as session:
        session.add(WorkerRow(id="wrk_dead", host="dead-host", pid=7, key_ids=[], last_heartbeat_at=db_now(-60)))
    run(app, "keys", "rotate", "--wait", "0")


def test_a_running_worker_reports_the_new_key(services: Services) -> None:
    worker = Worker(reopened(services))
    worker._heartbeat()
    file = services.settings.kek_file
    new = Encryptor.new_key()
    file.write_text(f"{new}\n{file.read_text()}")
    assert key_rotation.workers_missing_key(services.database, key_id_of(new)) != []
    worker._heartbeat()
    assert key_rotation.workers_missing_key(services.database, key_id_of(new)) == []


def test_a_second_concurrent_rotation_is_refused(app: Flask, services: Services) -> None:
    with KeyFile(services.settings.kek_file).changing():
        assert "another `certcourier keys`" in run(app, "keys", "rotate", status=1)


def test_a_needed_key_cannot_be_dropped(app: Flask, services: Services) -> None:
    add_encrypted_keys(services, 1)
    assert "is needed by 1" in run(app, "keys", "drop", services.encryptor.key_id, status=1)
    assert "All keys are in use" in run(app, "keys", "drop")


def test_a_key_from_the_environment_names_the_steps_to_rotate_it(
    simulator: Simulator, database_url: str, tmp_path: Path
) -> None:
    settings = make_settings(database_url, simulator.url, tmp_path, key_encryption_key=Encryptor.new_key())
    app = create_app(settings)
    claim_installation(app.extensions["certcourier"].services)
    assert "NEW OLD" in run(app, "keys", "rotate", status=1)
    app.extensions["certcourier"].services.database.close()


@pytest.fixture
def by_variable(services: Services, simulator: Simulator) -> Iterator[tuple[Flask, str]]:
    """The same installation with its key in KEY_ENCRYPTION_KEY; two of them."""
    old, new = services.settings.kek_file.read_text().strip(), Encryptor.new_key()
    given = {"key_encryption_key": f"{new} {old}", "webhook_secret": None}
    url, folder = f"{services.settings.database_url}", services.settings.data_dir
    app = create_app(make_settings(url, simulator.url, folder, **given))
    yield app, new
    app.extensions["certcourier"].services.database.close()


def test_keys_from_the_environment_are_rotated_too(services: Services, by_variable: tuple[Flask, str]) -> None:
    add_encrypted_keys(services)
    app, new = by_variable
    manual_steps = "save it with the backups' keys, then remove it from KEY_ENCRYPTION_KEY on every host"
    assert manual_steps in run(app, "keys", "rotate")
    assert manual_steps in run(app, "keys", "status", status=1)
    assert manual_steps in run(app, "keys", "drop", status=1)
    fresh = Encryptor(new)
    assert [decrypt_key(fresh, number, blob) for number, blob in encrypted_keys(services).items()] == [
        pem(number) for number in range(1, COUNT + 1)
    ]


def lose_key(services: Services) -> Services:
    """The file is gone and a new one is made, as when a volume is lost."""
    services.settings.kek_file.unlink()
    return reopened(services)


def test_a_lost_key_is_reported_at_startup_with_the_remedy(services: Services) -> None:
    lost = services.encryptor.key_id
    with pytest.raises(PermanentError, match=f"encrypted with key {lost}.*keys replace --lost.*refetch"):
        claim_installation(lose_key(services))


def test_status_reports_a_lost_key(services: Services) -> None:
    add_encrypted_keys(services, 3)
    app = create_app(lose_key(services).settings)
    output = run(app, "keys", "status", status=1)
    assert "restore it" in output
    assert "3 private keys cannot be decrypted" in output


def test_a_held_key_cannot_be_replaced_as_lost(app: Flask) -> None:
    assert "is not lost" in run(app, "keys", "replace", "--lost", status=1)


def test_after_a_lost_key_everything_is_fetched_again(
    app: Flask, services: Services, simulator: Simulator, domain: str
) -> None:
    """A certificate of DNSimple's is installed; its key is lost, given up, and fetched again with one call."""
    number = simulator.purchase(domain)
    simulator.issue(domain, number)
    simulator.wait_until_issued(domain, number)
    secret = services.webhook_secrets.current()
    path = f"/dnsimple/events/{secret}"
    assert app.test_client().post(path, json=event(number, simulator.domain_id(domain))).status_code == 200
    drain(services)
    with services.database.read() as session:
        before = decrypt_key(services.encryptor, number, session.get_one(Certificate, number).encrypted_key or b"")
    later = create_app(lose_key(services).settings)
    assert "fetch 1 private key again:" in run(later, "keys", "replace", "--lost")
    moved: Services = later.extensions["certcourier"].services
    claim_installation(moved)
    simulator.reset_calls()
    assert "1 private key to fetch; 1 job queued" in run(
        later, "certificates", "refetch", "--all-unreadable", "--no-wait"
    )
    assert "0 jobs queued" in run(later, "certificates", "refetch", "--all-unreadable", "--no-wait")
    drain(moved)
    assert [call["path_template"].rpartition("/")[2] for call in simulator.calls()] == ["private_key"]
    with moved.database.read() as session:
        after = decrypt_key(moved.encryptor, number, session.get_one(Certificate, number).encrypted_key or b"")
    assert after == before
    assert later.test_client().post(path, json=event(number, 1)).status_code == 200, "DNSimple's URL still works"
    assert moved.webhook_secrets.current() != secret
    assert "under the primary key" in run(later, "keys", "status")
    moved.database.close()


def test_a_key_that_does_not_match_its_certificate_is_not_stored(
    app: Flask, services: Services, simulator: Simulator, domain: str
) -> None:
    numbers = [simulator.purchase(domain, name=f"n{index}") for index in range(2)]
    for number in numbers:
        simulator.issue(domain, number)
        simulator.wait_until_issued(domain, number)
        path = f"/dnsimple/events/{services.webhook_secrets.current()}"
        app.test_client().post(path, json=event(number, simulator.domain_id(domain)))
    drain(services)
    before = encrypted_keys(services)
    with services.database.write() as session:  # as if DNSimple answered with another certificate's key
        leaf = session.get_one(Certificate, numbers[1]).leaf_pem
        session.execute(update(Certificate).where(Certificate.id == numbers[0]).values(leaf_pem=leaf))
    run(app, "certificates", "refetch", str(numbers[0]), "--no-wait")
    drain(services)
    assert encrypted_keys(services) == before
    assert "does not match" in run(app, "jobs", "list", "--state", "dead")


def test_a_refetch_requires_ids_or_all(app: Flask) -> None:
    assert "--all-unreadable" in run(app, "certificates", "refetch", status=2)
    assert "--all-unreadable" in run(app, "certificates", "refetch", "1", "--all-unreadable", status=2)


def test_a_host_without_the_key_leaves_the_job_to_others(services: Services) -> None:
    add_encrypted_keys(services, 1)
    with pytest.raises(KeyNotHeldError, match="which this process does not hold"):
        decrypt_key(Encryptor(Encryptor.new_key()), 1, encrypted_keys(services)[1])


def test_a_webhook_secret_lost_with_the_key_is_replaced(services: Services, simulator: Simulator) -> None:
    for hook in simulator.api("GET", "/webhooks"):
        simulator.api("DELETE", f"/webhooks/{hook['id']}")
    with services.database.write() as session:
        session.execute(delete(WebhookSecret))
    old = services.webhook_secrets.current()
    lost = Encryptor(Encryptor.new_key())
    with services.database.write() as session:
        row = session.scalars(select(WebhookSecret)).one()
        row.encrypted = lost.encrypt(f"webhook secret:{row.digest}", old)
        services.queue.enqueue(session, JobKind.REGISTER_WEBHOOK)
    drain(services)
    with services.database.write() as session:  # every process has heard of the new one
        session.execute(update(WebhookSecret).values(created_at=db_now(-PROPAGATION_SECONDS)))
    make_due(services)
    drain(services)
    (hook,) = simulator.api("GET", "/webhooks")
    assert hook["url"] == services.webhook_url
    assert not hook["url"].endswith(old)
