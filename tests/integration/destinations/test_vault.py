"""The vault destination, against a real OpenBao server over HTTP."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import pytest

from app.destinations.base import Destination, DestinationRefusedError, DestinationUnavailableError
from app.destinations.secret_document import secret_document
from tests.support.fakes.deliveries import (
    bundle,
    end_delivery,
    open_destination,
    race,
    start_delivery,
    write_destination,
)
from tests.support.fakes.fault_proxy import FaultProxy
from tests.support.fakes.vault import root_client, vault_server

DOCS = Path(__file__).resolve().parents[3] / "docs" / "destinations.md"
SLOT = "www.example.com"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with vault_server(tmp_path_factory.mktemp("vault")) as server:
        yield server


@dataclass
class Vault:
    """A KV engine of the test's own, with the policy that the documentation gives."""

    address: str
    root: hvac.Client
    mount: str
    folder: Path

    @property
    def policy(self) -> str:
        (text,) = re.findall(r"```text\n(path .*?)```", DOCS.read_text(), re.DOTALL)
        return str(text).replace('"secret/', f'"{self.mount}/')

    def token_file(self, **more: Any) -> str:
        token = self.root.auth.token.create(policies=[self.mount], no_parent=True, **more)["auth"]["client_token"]
        file = self.folder / "token"
        file.touch(mode=0o600)
        file.write_text(token)
        return str(file)

    def file(self, **fields: Any) -> Path:
        given = {"kind": "vault", "address": self.address, "mount": self.mount}
        if "role_id" not in fields:
            given["token_file"] = str(self.folder / "token")
        return write_destination(self.folder, **(given | fields))

    def open(self, **fields: Any) -> Destination:
        return open_destination(self.file(**fields))

    def read(self, slot: str = SLOT) -> dict[str, Any]:
        found: dict[str, Any] = self.root.secrets.kv.v2.read_secret_version(
            f"certcourier/{slot}", mount_point=self.mount, raise_on_deleted_version=True
        )["data"]
        return found

    def approle(self, **role: Any) -> dict[str, str]:
        """Fields of an AppRole's login."""
        self.root.sys.enable_auth_method("approle", path=self.mount)
        self.root.auth.approle.create_or_update_approle(
            "courier", token_policies=[self.mount], mount_point=self.mount, **role
        )
        file = self.folder / "secret-id"
        file.touch(mode=0o600)
        file.write_text(
            self.root.auth.approle.generate_secret_id("courier", mount_point=self.mount)["data"]["secret_id"]
        )
        role_id = self.root.auth.approle.read_role_id("courier", mount_point=self.mount)["data"]["role_id"]
        return {"auth_mount": self.mount, "role_id": role_id, "secret_id_file": str(file)}


def prepare(address: str, root: hvac.Client, folder: Path) -> Vault:
    vault = Vault(address, root, f"kv-{uuid.uuid4().hex[:12]}", folder)
    root.sys.enable_secrets_engine("kv", path=vault.mount, options={"version": "2"})
    root.sys.create_or_update_policy(vault.mount, vault.policy)
    return vault


@pytest.fixture
def vault(server: tuple[str, str], tmp_path: Path) -> Iterator[Vault]:
    vault = prepare(server[0], root_client(*server), tmp_path)
    vault.token_file()
    yield vault
    vault.root.sys.disable_secrets_engine(vault.mount)


@pytest.fixture
def proxy(vault: Vault) -> Iterator[FaultProxy]:
    with FaultProxy(vault.address) as proxy:
        yield proxy


def test_a_first_delivery_writes_certificate_and_key_and_says_which(vault: Vault) -> None:
    assert vault.open().deliver(bundle(1)).outcome == "delivered"
    found = vault.read()
    assert found["data"] == secret_document(bundle(1))
    assert found["metadata"]["custom_metadata"] == {
        "version": found["data"]["version"],
        "fingerprint": bundle(1).fingerprint,
        "lineage": SLOT,
        "managed-by": "certcourier",
    }


def test_a_renewal_is_the_next_version_of_the_same_secret(vault: Vault) -> None:
    destination = vault.open()
    destination.deliver(bundle(1))
    destination.deliver(bundle(2))
    found = vault.read()
    assert found["metadata"]["version"] == 2
    assert found["data"] == secret_document(bundle(2))
    assert found["metadata"]["custom_metadata"]["fingerprint"] == bundle(2).fingerprint


def test_delivering_twice_writes_once(vault: Vault) -> None:
    for _ in range(2):
        assert vault.open().deliver(bundle(1)).outcome == "delivered"
    assert vault.read()["metadata"]["version"] == 1


def test_an_older_certificate_never_replaces_a_newer_one(vault: Vault) -> None:
    vault.open().deliver(bundle(2))
    assert vault.open().deliver(bundle(1)).outcome == "superseded"
    assert vault.read()["data"] == secret_document(bundle(2))


def test_writers_that_race_leave_the_newest_and_its_metadata(vault: Vault) -> None:
    """Eight processes' worth of destinations, each with its own login, start at one barrier, ten times over."""
    for turn in range(10):
        slot = f"race{turn}.example.com"
        numbers = [5, 1, 7, 3, 8, 2, 6, 4]
        outcomes = race({number: (vault.open(), bundle(number, slot)) for number in numbers})
        found = vault.read(slot)
        assert found["data"]["fingerprint"] == bundle(8, slot).fingerprint
        assert found["metadata"]["custom_metadata"]["fingerprint"] == bundle(8, slot).fingerprint
        assert len(outcomes) == len(numbers)
        assert outcomes[8] == "delivered"


def test_a_newer_version_written_between_reading_and_writing_stays(vault: Vault, proxy: FaultProxy) -> None:
    vault.open().deliver(bundle(1))
    proxy.before_call("POST", lambda: vault.open().deliver(bundle(3)))
    assert vault.open(address=proxy.url).deliver(bundle(2)).outcome == "superseded"
    assert vault.read()["data"] == secret_document(bundle(3))


def test_metadata_never_stays_behind_when_a_newer_version_overtakes_it(vault: Vault, proxy: FaultProxy) -> None:
    proxy.before_call("POST /v1/" + vault.mount + "/metadata", lambda: vault.open().deliver(bundle(3)))
    vault.open(address=proxy.url).deliver(bundle(2))
    found = vault.read()
    assert found["data"]["fingerprint"] == bundle(3).fingerprint
    assert found["metadata"]["custom_metadata"]["fingerprint"] == bundle(3).fingerprint


@pytest.mark.chaos
@pytest.mark.parametrize("calls", range(4))
def test_killed_between_any_two_calls_it_is_delivered_again(vault: Vault, proxy: FaultProxy, calls: int) -> None:
    vault.open().deliver(bundle(1))
    proxy.hold_after(calls)
    process = start_delivery(vault.file(address=proxy.url), bundle(2))
    assert proxy.held.wait(60)
    assert end_delivery(process, kill=True) == ""
    proxy.release()
    process = start_delivery(vault.file(address=proxy.url), bundle(2))
    assert end_delivery(process) == "delivered"
    found = vault.read()
    assert (found["data"], found["metadata"]["version"]) == (secret_document(bundle(2)), 2)
    assert found["metadata"]["custom_metadata"]["fingerprint"] == bundle(2).fingerprint


def test_a_server_that_is_down_is_tried_again(vault: Vault, proxy: FaultProxy) -> None:
    destination = vault.open(address=proxy.url)
    proxy.close()
    with pytest.raises(DestinationUnavailableError, match="check that it is running"):
        destination.deliver(bundle(1))
    proxy.open()
    assert destination.deliver(bundle(1)).outcome == "delivered"


@pytest.mark.parametrize("calls", range(4))
def test_a_lost_answer_leads_to_one_version(vault: Vault, proxy: FaultProxy, calls: int) -> None:
    destination = vault.open(address=proxy.url)
    proxy.lose_answer_after(calls)
    with pytest.raises(DestinationUnavailableError):
        destination.deliver(bundle(1))
    assert destination.deliver(bundle(1)).outcome == "delivered"
    assert vault.read()["metadata"]["version"] == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_in_trouble_is_tried_again(vault: Vault, proxy: FaultProxy, status: int) -> None:
    destination = vault.open(address=proxy.url)
    proxy.answer(status, b'{"errors": ["Vault is sealed"]}')
    with pytest.raises(DestinationUnavailableError, match="unsealed"):
        destination.deliver(bundle(1))
    assert destination.deliver(bundle(1)).outcome == "delivered"


def test_a_wrong_token_is_refused_and_not_shown(vault: Vault) -> None:
    (vault.folder / "token").write_text("s.wrong-token")
    with pytest.raises(DestinationRefusedError, match="check the token and that its policy") as caught:
        vault.open().deliver(bundle(1))
    assert "wrong-token" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_policy_that_is_missing_is_named(vault: Vault) -> None:
    vault.root.sys.create_or_update_policy(vault.mount, 'path "other/*" { capabilities = ["read"] }')
    with pytest.raises(DestinationRefusedError, match="allows create, read and update"):
        vault.open().deliver(bundle(1))


def test_a_token_that_was_replaced_in_its_file_is_read_again(vault: Vault) -> None:
    destination = vault.open()
    destination.deliver(bundle(1))
    vault.root.auth.token.revoke((vault.folder / "token").read_text())
    vault.token_file()
    assert destination.deliver(bundle(2)).outcome == "delivered"


def test_an_approle_logs_in(vault: Vault) -> None:
    assert vault.open(**vault.approle()).deliver(bundle(1)).outcome == "delivered"


def test_a_login_that_has_ended_is_renewed(vault: Vault) -> None:
    login = vault.approle(token_num_uses=5)
    destination = vault.open(**login)
    for number in range(1, 6):
        assert destination.deliver(bundle(number)).outcome == "delivered"


def test_a_wrong_secret_id_is_refused_and_not_shown(vault: Vault) -> None:
    login = vault.approle()
    (vault.folder / "secret-id").write_text("wrong-secret-id")
    with pytest.raises(DestinationRefusedError, match="check role_id, secret_id_file") as caught:
        vault.open(**login).deliver(bundle(1))
    assert "wrong-secret-id" not in str(caught.value)


def test_a_namespace_holds_the_login_and_the_secrets(vault: Vault, server: tuple[str, str]) -> None:
    try:
        vault.root.sys.create_namespace("team")
    except hvac.exceptions.InvalidPath:
        pytest.skip("this server has no namespaces")
    team = prepare(vault.address, root_client(*server, "team"), vault.folder)
    destination = team.open(**team.approle(), namespace="team")
    assert destination.deliver(bundle(1)).detail == f"{vault.address}, team/{team.mount}/certcourier/{SLOT}"
    assert team.read()["data"] == secret_document(bundle(1))
    with pytest.raises(hvac.exceptions.InvalidPath):
        vault.read()


def test_what_certcourier_did_not_write_is_left_alone(vault: Vault) -> None:
    vault.root.secrets.kv.v2.create_or_update_secret(
        f"certcourier/{SLOT}", {"password": "theirs"}, mount_point=vault.mount
    )
    with pytest.raises(DestinationRefusedError, match="did not write; move it away") as caught:
        vault.open().deliver(bundle(1))
    assert "theirs" not in str(caught.value)
    assert vault.read()["data"] == {"password": "theirs"}


@pytest.mark.parametrize("way", ["delete_latest_version_of_secret", "destroy_secret_versions"])
def test_a_version_that_was_taken_away_is_written_again(vault: Vault, way: str) -> None:
    vault.open().deliver(bundle(1))
    more: dict[str, Any] = {"versions": [1]} if way == "destroy_secret_versions" else {}
    getattr(vault.root.secrets.kv.v2, way)(f"certcourier/{SLOT}", mount_point=vault.mount, **more)
    assert vault.open().deliver(bundle(1)).outcome == "delivered"
    assert vault.read()["metadata"]["version"] == 2


def test_what_the_operator_set_for_a_secret_stays(vault: Vault) -> None:
    kv = vault.root.secrets.kv.v2
    kv.update_metadata(
        f"certcourier/{SLOT}",
        mount_point=vault.mount,
        max_versions=3,
        delete_version_after="720h",
        custom_metadata={"owner": "shop"},
    )
    vault.open().deliver(bundle(1))
    found = kv.read_secret_metadata(f"certcourier/{SLOT}", mount_point=vault.mount)["data"]
    assert (found["max_versions"], found["delete_version_after"]) == (3, "720h0m0s")
    assert found["custom_metadata"]["lineage"] == SLOT
    assert found["custom_metadata"]["owner"] == "shop"


def test_a_mount_that_is_missing_is_named(vault: Vault) -> None:
    vault.root.sys.create_or_update_policy(
        vault.mount, 'path "nowhere/*" { capabilities = ["create", "read", "update"] }'
    )
    with pytest.raises(DestinationRefusedError, match="check mount"):
        vault.open(mount="nowhere").deliver(bundle(1))


def test_a_secret_file_that_others_can_read_is_refused_by_the_check(vault: Vault) -> None:
    vault.open().check()
    (vault.folder / "token").chmod(0o644)
    with pytest.raises(DestinationRefusedError, match="chmod 600"):
        vault.open().check()
    (vault.folder / "token").unlink()
    with pytest.raises(DestinationRefusedError, match=r"token_file: .*No such file"):
        vault.open().check()


@pytest.mark.parametrize("fields", [{"role_id": "x"}, {"secret_id_file": "x"}, {"role_id": "x", "token_file": "y"}])
def test_half_a_login_is_refused(vault: Vault, fields: dict[str, str]) -> None:
    with pytest.raises(DestinationRefusedError, match="set token_file, or role_id and secret_id_file"):
        vault.open(**fields)
