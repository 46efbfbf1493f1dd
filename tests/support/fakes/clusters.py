"""A Kubernetes cluster for tests: the fake as a process, or the cluster named by TEST_KUBECONFIG."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml
from kubernetes import client as api
from kubernetes import config as login

from tests.support.fakes.server import ServerProcess
from tests.support.stack import free_port
from tests.support.x509 import Authority, pem

_ADMIN = "admin-token-of-the-tests"


def write_kubeconfig(file: Path, server: str, token: str, authority: Path | None = None) -> Path:
    """Write a new file with one context."""
    cluster = {"server": server} | ({"certificate-authority": str(authority)} if authority else {})
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
    }
    return _write(file, content)


def with_token(admin: Path, file: Path, token: str, server: str | None = None) -> Path:
    """The administrator's kubeconfig for another user, optionally with another server URL."""
    content = yaml.safe_load(admin.read_text())
    for user in content["users"]:
        user["user"] = {"token": token}
    for cluster in content["clusters"]:
        if server:
            cluster["cluster"] = {"server": server}
    return _write(file, content)


def _write(file: Path, content: dict[str, Any]) -> Path:
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(content))
    return file


@contextmanager
def kubernetes_cluster(folder: Path) -> Iterator[Path]:
    """Path of the administrator's kubeconfig."""
    given = os.environ.get("TEST_KUBECONFIG")
    if given:
        yield Path(given)
        return
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.support.fakes.kubernetes", str(port), _ADMIN]

    def is_ready() -> bool:
        return requests.get(f"{server}/api/v1/namespaces/x/secrets/x", timeout=5).status_code == 401

    with ServerProcess(command, ready=is_ready, log=folder / "kubernetes.log"):
        yield write_kubeconfig(folder / "admin", server, _ADMIN)


@contextmanager
def tls_cluster(folder: Path) -> Iterator[tuple[Path, int, Path]]:
    """The fake with TLS: the administrator's kubeconfig, the port on localhost, and its authority's certificate."""
    authority, port = Authority(), free_port()
    issued = authority.issue("localhost")
    texts = {"ca.pem": pem(authority.root), "cert.pem": issued.leaf + "".join(issued.chain), "key.pem": issued.key}
    for name, text in texts.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "tests.support.fakes.kubernetes", str(port), _ADMIN]
    command += [str(folder / "cert.pem"), str(folder / "key.pem")]
    server = f"https://localhost:{port}"

    def is_ready() -> bool:
        url = f"{server}/api/v1/namespaces/x/secrets/x"
        return requests.get(url, timeout=5, verify=str(folder / "ca.pem")).status_code == 401

    with ServerProcess(command, ready=is_ready, log=folder / "kubernetes.log"):
        yield write_kubeconfig(folder / "admin", server, _ADMIN, folder / "ca.pem"), port, folder / "ca.pem"


class Namespace:
    """A namespace of the test's own, with a service account that has these rules."""

    def __init__(self, admin: Path, rules: list[dict[str, Any]]) -> None:
        self.name = f"certcourier-{uuid.uuid4().hex[:12]}"
        self.admin = admin
        client = login.new_client_from_config(str(admin), persist_config=False)
        self.core = api.CoreV1Api(client)
        rights = api.RbacAuthorizationV1Api(client)
        metadata = {"name": "certcourier"}
        self.core.create_namespace({"metadata": {"name": self.name}})
        self.core.create_namespaced_service_account(self.name, {"metadata": metadata})
        rights.create_namespaced_role(self.name, {"metadata": metadata, "rules": rules})
        binding = {
            "metadata": metadata,
            "subjects": [{"kind": "ServiceAccount", "name": "certcourier", "namespace": self.name}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "certcourier"},
        }
        rights.create_namespaced_role_binding(self.name, binding)

    def token(self) -> str:
        """A new token of the service account."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
        answer = self.core.create_namespaced_service_account_token(
            "certcourier", self.name, request, _preload_content=False
        )
        return str(answer.json()["status"]["token"])

    def apply(self, secret: dict[str, Any], manager: str) -> None:
        """Apply the secret as another field manager."""
        self.core.api_client.call_api(
            "/api/v1/namespaces/{namespace}/secrets/{name}",
            "PATCH",
            {"namespace": self.name, "name": secret["metadata"]["name"]},
            [("fieldManager", manager)],
            {"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"},
            body=secret,
            auth_settings=["BearerToken"],
        )

    def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.core.read_namespaced_secret(name, self.name, _preload_content=False).json()
        return found

    def delete(self) -> None:
        self.core.delete_namespace(self.name)
        self.core.api_client.rest_client.pool_manager.clear()
