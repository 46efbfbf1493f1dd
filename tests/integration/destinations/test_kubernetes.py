"""The kubernetes destination, by the official client over HTTP (see `tests.support.fakes.kubernetes`)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from app.destinations.base import Destination, DestinationRefusedError, DestinationUnavailableError
from app.destinations.kubernetes import secret_name
from app.destinations.slots import version_text
from tests.support.fakes.clusters import Namespace, kubernetes_cluster, tls_cluster, with_token
from tests.support.fakes.deliveries import (
    bundle,
    end_delivery,
    open_destination,
    race,
    start_delivery,
    write_destination,
)
from tests.support.fakes.fault_proxy import FaultProxy

DOCS = Path(__file__).resolve().parents[3] / "docs" / "destinations.md"
SLOT = "www.example.com"


def documented_rules() -> list[dict[str, Any]]:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    rules: list[dict[str, Any]] = yaml.safe_load(text)["rules"]
    return rules


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with kubernetes_cluster(tmp_path_factory.mktemp("kubernetes")) as admin:
        yield admin


@dataclass
class Kubernetes:
    """A namespace in which the documented role is bound, and a login to it."""

    namespace: Namespace
    folder: Path

    @property
    def server(self) -> str:
        return str(yaml.safe_load(self.namespace.admin.read_text())["clusters"][0]["cluster"]["server"])

    def login(self, name: str = "kubeconfig", token: str | None = None, server: str | None = None) -> str:
        token = token or self.namespace.token()
        return str(with_token(self.namespace.admin, self.folder / name, token, server))

    def file(self, **fields: Any) -> Path:
        given: dict[str, Any] = {"kind": "kubernetes", "namespace": self.namespace.name}
        if "kubeconfig" not in fields:
            given["kubeconfig"] = self.login()
        return write_destination(self.folder, **(given | fields))

    def open(self, **fields: Any) -> Destination:
        return open_destination(self.file(**fields))

    def pems(self, name: str = SLOT) -> tuple[str, str]:
        data = self.namespace.read(name)["data"]
        certificate, key = (base64.b64decode(data[field]).decode() for field in ("tls.crt", "tls.key"))
        return certificate, key


def pems_of(number: int, slot: str = SLOT) -> tuple[str, str]:
    return bundle(number, slot).fullchain_pem, bundle(number, slot).key.reveal()


@pytest.fixture
def kubernetes(admin: Path, tmp_path: Path) -> Iterator[Kubernetes]:
    namespace = Namespace(admin, documented_rules())
    yield Kubernetes(namespace, tmp_path)
    namespace.delete()


@pytest.fixture
def proxy(kubernetes: Kubernetes) -> Iterator[FaultProxy]:
    if not kubernetes.server.startswith("http://"):
        pytest.skip("a proxy can only stand before a server that is reached by plain HTTP")
    with FaultProxy(kubernetes.server) as proxy:
        yield proxy


def test_a_first_delivery_makes_a_tls_secret_that_says_whose_it_is(kubernetes: Kubernetes) -> None:
    assert kubernetes.open().deliver(bundle(1)).outcome == "delivered"
    found = kubernetes.namespace.read(SLOT)
    assert found["type"] == "kubernetes.io/tls"
    assert found["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "certcourier"}
    assert found["metadata"]["annotations"] == {
        "certcourier/lineage": SLOT,
        "certcourier/version": version_text(bundle(1).version),
        "certcourier/certificate-id": "1001",
        "certcourier/not-before": bundle(1).version.not_before.isoformat(),
        "certcourier/fingerprint": bundle(1).fingerprint,
    }
    assert kubernetes.pems() == pems_of(1)


def test_a_renewal_is_applied_by_our_field_manager(kubernetes: Kubernetes) -> None:
    kubernetes.open().deliver(bundle(1))
    kubernetes.open().deliver(bundle(2))
    assert kubernetes.pems() == pems_of(2)
    entries = kubernetes.namespace.read(SLOT)["metadata"]["managedFields"]
    assert ("certcourier", "Apply") in {(entry["manager"], entry["operation"]) for entry in entries}


def test_a_renewal_keeps_what_others_have_added(kubernetes: Kubernetes) -> None:
    kubernetes.open().deliver(bundle(1))
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SLOT, "annotations": {"reflector": "yes"}},
    }
    kubernetes.namespace.apply(theirs, "others")
    kubernetes.open().deliver(bundle(2))
    assert kubernetes.namespace.read(SLOT)["metadata"]["annotations"]["reflector"] == "yes"
    assert kubernetes.pems() == pems_of(2)


def test_delivering_twice_changes_nothing(kubernetes: Kubernetes) -> None:
    kubernetes.open().deliver(bundle(1))
    before = kubernetes.namespace.read(SLOT)
    assert kubernetes.open().deliver(bundle(1)).outcome == "delivered"
    assert kubernetes.namespace.read(SLOT) == before


def test_an_older_certificate_never_replaces_a_newer_one(kubernetes: Kubernetes) -> None:
    kubernetes.open().deliver(bundle(2))
    assert kubernetes.open().deliver(bundle(1)).outcome == "superseded"
    assert kubernetes.pems() == pems_of(2)


def test_writers_that_race_leave_the_newest(kubernetes: Kubernetes) -> None:
    for turn in range(5):
        slot = f"race{turn}.example.com"
        numbers = (5, 1, 7, 3, 8, 2, 6, 4)
        outcomes = race({number: (kubernetes.open(), bundle(number, slot)) for number in numbers})
        assert len(outcomes) == len(numbers)
        assert outcomes[8] == "delivered"
        assert kubernetes.pems(slot) == pems_of(8, slot)


@pytest.mark.parametrize("first", [True, False])
def test_a_newer_one_written_between_reading_and_writing_stays(
    kubernetes: Kubernetes, proxy: FaultProxy, first: bool
) -> None:
    direct = kubernetes.open()
    if not first:
        direct.deliver(bundle(1))
    proxy.before_call("POST" if first else "PATCH", lambda: direct.deliver(bundle(3)))
    through = kubernetes.open(kubeconfig=kubernetes.login("through", server=proxy.url))
    assert through.deliver(bundle(2)).outcome == "superseded"
    assert kubernetes.pems() == pems_of(3)


@pytest.mark.chaos
@pytest.mark.parametrize("calls", range(2))
@pytest.mark.parametrize("renewal", [False, True], ids=["first", "renewal"])
def test_killed_between_any_two_calls_it_is_delivered_again(
    kubernetes: Kubernetes, proxy: FaultProxy, calls: int, renewal: bool
) -> None:
    if renewal:
        kubernetes.open().deliver(bundle(1))
    file = kubernetes.file(kubeconfig=kubernetes.login("through", server=proxy.url))
    proxy.hold_after(calls)
    process = start_delivery(file, bundle(2))
    assert proxy.held.wait(60)
    assert end_delivery(process, kill=True) == ""
    proxy.release()
    assert end_delivery(start_delivery(file, bundle(2))) == "delivered"
    assert kubernetes.pems() == pems_of(2)


def test_a_server_that_is_down_is_tried_again(kubernetes: Kubernetes, proxy: FaultProxy) -> None:
    destination = kubernetes.open(kubeconfig=kubernetes.login("through", server=proxy.url))
    proxy.close()
    with pytest.raises(DestinationUnavailableError, match="check that it is running"):
        destination.deliver(bundle(1))
    proxy.open()
    assert destination.deliver(bundle(1)).outcome == "delivered"


def test_a_lost_answer_changes_nothing(kubernetes: Kubernetes, proxy: FaultProxy) -> None:
    destination = kubernetes.open(kubeconfig=kubernetes.login("through", server=proxy.url))
    proxy.lose_answer_after(1)
    with pytest.raises(DestinationUnavailableError):
        destination.deliver(bundle(1))
    assert len(proxy.calls) == 2
    assert kubernetes.pems() == pems_of(1)
    assert destination.deliver(bundle(1)).outcome == "delivered"


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_a_server_in_trouble_is_tried_again_when_it_says(
    kubernetes: Kubernetes, proxy: FaultProxy, status: int
) -> None:
    destination = kubernetes.open(kubeconfig=kubernetes.login("through", server=proxy.url))
    proxy.answer(status, json.dumps({"kind": "Status", "code": status}).encode(), {"Retry-After": "7"})
    with pytest.raises(DestinationUnavailableError) as caught:
        destination.deliver(bundle(1))
    assert caught.value.retry_after == 7.0
    assert destination.deliver(bundle(1)).outcome == "delivered"


def test_a_wrong_token_is_refused_and_not_shown(kubernetes: Kubernetes) -> None:
    with pytest.raises(DestinationRefusedError, match="rejected the credentials; renew them") as caught:
        kubernetes.open(kubeconfig=kubernetes.login(token="wrong-token")).deliver(bundle(1))
    assert "wrong-token" not in str(caught.value)


def test_a_token_that_was_replaced_in_the_kubeconfig_is_read_again(kubernetes: Kubernetes) -> None:
    destination = kubernetes.open(kubeconfig=kubernetes.login(token="ended"))
    with pytest.raises(DestinationRefusedError):
        destination.deliver(bundle(1))
    kubernetes.login()
    assert destination.deliver(bundle(1)).outcome == "delivered"


def test_a_permission_that_is_missing_is_named(admin: Path, tmp_path: Path) -> None:
    bare = Kubernetes(Namespace(admin, []), tmp_path)
    with pytest.raises(DestinationRefusedError, match="allow get, create and patch of secrets"):
        bare.open().deliver(bundle(1))
    bare.namespace.delete()


def test_a_namespace_that_is_missing_is_named(kubernetes: Kubernetes, admin: Path) -> None:
    with pytest.raises(DestinationRefusedError, match="namespace nowhere does not exist; create it"):
        kubernetes.open(kubeconfig=str(admin), namespace="nowhere").deliver(bundle(1))


@pytest.mark.parametrize(
    "metadata", [{}, {"labels": {"app.kubernetes.io/managed-by": "certcourier"}}], ids=["theirs", "another lineage's"]
)
def test_a_secret_that_is_not_ours_is_left_alone(kubernetes: Kubernetes, metadata: dict[str, Any]) -> None:
    theirs = {"tls.crt": "dGhlaXJz", "tls.key": "dGhlaXJz"}
    secret = {"metadata": {"name": SLOT} | metadata, "type": "kubernetes.io/tls", "data": theirs}
    kubernetes.namespace.core.create_namespaced_secret(kubernetes.namespace.name, secret)
    with pytest.raises(DestinationRefusedError, match="not managed by Certcourier for"):
        kubernetes.open().deliver(bundle(1))
    assert kubernetes.namespace.read(SLOT)["data"] == theirs


def test_a_wildcard_and_a_template_make_a_valid_name(kubernetes: Kubernetes) -> None:
    slot = "_wildcard.example.com"
    kubernetes.open(secret_name="tls-{slot}").deliver(bundle(1, slot))
    assert kubernetes.pems("tls-example.com.wildcard") == pems_of(1, slot)


@pytest.mark.parametrize("slot", ["a" * 63 + ".example.com", "x_y.example.com", ".".join(["b" * 40] * 6) + ".com"])
def test_every_lineage_gets_a_valid_name_of_its_own(slot: str) -> None:
    for template in ("{slot}", "p" * 60 + "-{slot}"):
        name = secret_name(template, slot)
        assert len(name) <= 253
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)
        assert name != secret_name(template, slot.replace("_", "-") if "_" in slot else "c" + slot[1:])


def test_in_a_pod_the_tokens_file_is_used_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_cluster(tmp_path) as (admin, port, authority):
        pod = Kubernetes(Namespace(admin, documented_rules()), tmp_path)
        token = tmp_path / "token"
        token.write_text("ended")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
        destination = pod.open(kubeconfig=None)
        with pytest.raises(DestinationRefusedError, match="rejected the credentials"):
            destination.deliver(bundle(1))
        token.write_text(pod.namespace.token())
        assert destination.deliver(bundle(1)).outcome == "delivered"
        assert pod.pems() == pems_of(1)
        pod.namespace.delete()


def test_a_server_whose_certificate_is_not_trusted_is_refused(tmp_path: Path) -> None:
    with tls_cluster(tmp_path) as (admin, port, _):
        stranger = with_token(admin, tmp_path / "stranger", "any", server=f"https://localhost:{port}")
        file = write_destination(tmp_path, kind="kubernetes", kubeconfig=str(stranger), namespace="some")
        with pytest.raises(DestinationRefusedError, match="is not trusted; check the kubeconfig's certification"):
            open_destination(file).deliver(bundle(1))


def test_without_a_kubeconfig_it_has_to_be_a_pod(kubernetes: Kubernetes) -> None:
    with pytest.raises(DestinationRefusedError, match="run in a pod with a service account"):
        kubernetes.open(kubeconfig=None).check()


def test_a_kubeconfig_that_others_can_read_is_refused_by_the_check(kubernetes: Kubernetes) -> None:
    kubernetes.open().check()
    Path(kubernetes.login()).chmod(0o644)
    with pytest.raises(DestinationRefusedError, match="chmod 600"):
        open_destination(kubernetes.folder / "destinations.toml").check()
