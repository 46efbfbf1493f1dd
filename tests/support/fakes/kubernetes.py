"""A fake Kubernetes API server for secrets: `python -m tests.support.fakes.kubernetes PORT TOKEN`.

No package that we can install brings kube-apiserver. This follows the API's reference ("API Concepts", "Server-Side
Apply", "Secrets", "Using RBAC Authorization"): create, read and apply of secrets with resourceVersion, field managers
and conflicts, validation, 401, 403, 404, 409, 415, 422; and namespaces, service accounts, their tokens, roles and
bindings as far as a test needs them to set the scene by the same calls as on a real cluster. With two more arguments,
the files of a certificate and its key, it speaks TLS.
"""

from __future__ import annotations

import base64
import binascii
import copy
import itertools
import re
import secrets
import sys
import threading
from typing import Any

import yaml
from flask import Flask, Response, g, jsonify, request
from werkzeug.serving import run_simple

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEEP = ("labels", "annotations")


class _RefusedError(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Cluster:
    """What is stored. Objects by (kind, namespace, name)."""

    def __init__(self, admin_token: str) -> None:
        self.lock = threading.Lock()
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.accounts: dict[str, tuple[str, str] | None] = {admin_token: None}
        self._versions = itertools.count(1)

    def authenticate(self, header: str) -> tuple[str, str] | None:
        """The service account, None for the administrator."""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or token not in self.accounts:
            raise _RefusedError(401, "Unauthorized", "Unauthorized")
        return self.accounts[token]

    def authorize(self, account: tuple[str, str] | None, verb: str, resource: str, namespace: str) -> None:
        if account is None:
            return
        for (kind, place, _), binding in list(self.objects.items()):
            subjects = [(one.get("namespace", place), one["name"]) for one in binding.get("subjects", [])]
            if kind != "rolebindings" or place != namespace or account not in subjects:
                continue
            role = self.objects.get(("roles", namespace, binding["roleRef"]["name"]), {"rules": []})
            for rule in role["rules"]:
                if verb in rule["verbs"] and resource in rule["resources"] and "" in rule["apiGroups"]:
                    return
        who = f"system:serviceaccount:{account[0]}:{account[1]}"
        raise _RefusedError(
            403,
            "Forbidden",
            f'{resource} is forbidden: User "{who}" cannot {verb} resource "{resource}" in "{namespace}"',
        )

    def store(self, kind: str, namespace: str, found: dict[str, Any]) -> dict[str, Any]:
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[kind, namespace, found["metadata"]["name"]] = found
        return found

    def create(self, kind: str, namespace: str, body: dict[str, Any], manager: str) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if namespace and ("namespaces", "", namespace) not in self.objects:
            raise _RefusedError(404, "NotFound", f'namespaces "{namespace}" not found')
        if body["metadata"].get("resourceVersion"):
            raise _RefusedError(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if (kind, namespace, name) in self.objects:
            raise _RefusedError(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if kind == "secrets":
            _validate(body)
        new = copy.deepcopy(body)
        new["metadata"]["namespace"] = namespace
        new["metadata"]["managedFields"] = [
            {"manager": manager, "operation": "Update", "fieldsV1": sorted(_fields(body))}
        ]
        return self.store(kind, namespace, new)

    def apply(self, namespace: str, name: str, body: dict[str, Any], manager: str, force: bool) -> tuple[int, Any]:
        wanted_version = body["metadata"].get("resourceVersion")
        held = self.objects.get(("secrets", namespace, name))
        if held is None:
            if wanted_version:
                raise _RefusedError(409, "Conflict", f'secrets "{name}": the object has been modified')
            new = self.create("secrets", namespace, body, manager)
            new["metadata"]["managedFields"][0]["operation"] = "Apply"
            return 201, new
        if wanted_version and wanted_version != held["metadata"]["resourceVersion"]:
            raise _RefusedError(
                409, "Conflict", f'Operation cannot be fulfilled on secrets "{name}": the object has been modified'
            )
        new, wanted = copy.deepcopy(held), _fields(body)
        mine, managers = _take(held, wanted, manager, force=force)
        others = {field for entry in managers for field in entry["fieldsV1"]}
        for field in mine - set(wanted) - others:
            _set(new, field, None)
        for field, value in wanted.items():
            _set(new, field, value)
        for field in ("type", "data"):
            if held.get(field) != new.get(field) and (field == "type" or held.get("immutable")):
                raise _RefusedError(422, "Invalid", f'Secret "{name}" is invalid: {field}: field is immutable')
        _validate(new)
        managers.append({"manager": manager, "operation": "Apply", "fieldsV1": sorted(wanted)})
        new["metadata"]["managedFields"] = managers
        return 200, held if new == held else self.store("secrets", namespace, new)


def _take(
    held: dict[str, Any], wanted: dict[str, Any], manager: str, *, force: bool
) -> tuple[set[str], list[dict[str, Any]]]:
    """The fields that the manager has applied before, and what is left of the other managers' fields."""
    mine: set[str] = set()
    left, now = [], _fields(held)
    for entry in held["metadata"]["managedFields"]:
        owned = set(entry["fieldsV1"])
        if (entry["manager"], entry["operation"]) == (manager, "Apply"):
            mine = owned
            continue
        clashes = {field for field in owned & set(wanted) if wanted[field] != now.get(field)}
        if clashes and not force:
            who, what = entry["manager"], ", ".join(sorted(clashes))
            raise _RefusedError(409, "Conflict", f'Apply failed with conflicts: conflicts with "{who}": {what}')
        left.append(entry | {"fieldsV1": sorted(owned - clashes)})
    return mine, left


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    """Fields that can be owned, by path: the type, and each label, annotation and key of data."""
    found = {f"data|{key}": value for key, value in (body.get("data") or {}).items()}
    for part in _KEEP:
        found |= {f"{part}|{key}": value for key, value in (body["metadata"].get(part) or {}).items()}
    return found | {key: body[key] for key in ("type", "immutable") if key in body}


def _set(body: dict[str, Any], field: str, value: Any) -> None:
    part, _, key = field.partition("|")
    place = body if not key else (body if part == "data" else body["metadata"]).setdefault(part, {})
    if value is None:
        place.pop(key or part, None)
    else:
        place[key or part] = value


def _validate(body: dict[str, Any]) -> None:
    name = body["metadata"]["name"]
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise _RefusedError(422, "Invalid", f'Secret "{name}" is invalid: metadata.name: not a DNS-1123 subdomain')
    for key, value in body["metadata"].get("labels", {}).items():
        if len(value) > 63:
            raise _RefusedError(422, "Invalid", f"metadata.labels: {key}: must be no more than 63 characters")
    for value in (body.get("data") or {}).values():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError):
            raise _RefusedError(
                400, "BadRequest", "Secret in version v1 cannot be handled: illegal base64 data"
            ) from None
    if body.get("type") == "kubernetes.io/tls" and not {"tls.crt", "tls.key"} <= set(body.get("data") or {}):
        raise _RefusedError(422, "Invalid", "data[tls.crt], data[tls.key]: Required value")


def create_app(cluster: Cluster) -> Flask:  # noqa: C901, one route after the other
    app = Flask(__name__)

    @app.before_request
    def authenticate() -> None:
        g.account = cluster.authenticate(request.headers.get("Authorization", ""))

    @app.errorhandler(_RefusedError)
    def refused(error: _RefusedError) -> tuple[Response, int]:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.code}
        return jsonify(status | {"message": str(error), "reason": error.reason}), error.code

    @app.post("/api/v1/namespaces")
    @app.post("/api/v1/namespaces/<namespace>/<kind>")
    @app.post("/apis/rbac.authorization.k8s.io/v1/namespaces/<namespace>/<kind>")
    def create(namespace: str = "", kind: str = "namespaces") -> tuple[Response, int]:
        with cluster.lock:
            cluster.authorize(g.account, "create", kind, namespace)
            body = yaml.safe_load(request.get_data())
            return jsonify(cluster.create(kind, namespace, body, request.args.get("fieldManager", "unknown"))), 201

    @app.post("/api/v1/namespaces/<namespace>/serviceaccounts/<name>/token")
    def token(namespace: str, name: str) -> tuple[Response, int]:
        with cluster.lock:
            cluster.authorize(g.account, "create", "serviceaccounts/token", namespace)
            made = secrets.token_hex(16)
            cluster.accounts[made] = (namespace, name)
        return jsonify({"kind": "TokenRequest", "status": {"token": made, "expirationTimestamp": None}}), 201

    @app.delete("/api/v1/namespaces/<namespace>")
    def delete_namespace(namespace: str) -> Response:
        with cluster.lock:
            cluster.authorize(g.account, "delete", "namespaces", namespace)
            for key in [key for key in cluster.objects if namespace in {key[1], key[2]}]:
                del cluster.objects[key]
        return jsonify({"kind": "Status", "status": "Success"})

    @app.get("/api/v1/namespaces/<namespace>/secrets/<name>")
    def read(namespace: str, name: str) -> Response:
        with cluster.lock:
            cluster.authorize(g.account, "get", "secrets", namespace)
            if ("secrets", namespace, name) not in cluster.objects:
                raise _RefusedError(404, "NotFound", f'secrets "{name}" not found')
            return jsonify(cluster.objects["secrets", namespace, name])

    @app.patch("/api/v1/namespaces/<namespace>/secrets/<name>")
    def patch(namespace: str, name: str) -> tuple[Response, int]:
        if request.mimetype != "application/apply-patch+yaml":
            raise _RefusedError(415, "UnsupportedMediaType", f"{request.mimetype} is not supported by the fake")
        manager = request.args.get("fieldManager")
        body = yaml.safe_load(request.get_data())
        if not manager:
            raise _RefusedError(422, "Invalid", "fieldManager: Required value: is required for apply patch")
        if (body.get("apiVersion"), body.get("kind")) != ("v1", "Secret") or body["metadata"].get("name") != name:
            raise _RefusedError(400, "BadRequest", "the object in the body is not the one in the URL")
        with cluster.lock:
            cluster.authorize(g.account, "patch", "secrets", namespace)
            code, found = cluster.apply(namespace, name, body, manager, request.args.get("force") in {"true", "True"})
            return jsonify(found), code

    return app


def main() -> None:
    port, token, *tls = sys.argv[1:]
    context = (tls[0], tls[1]) if tls else None
    run_simple("127.0.0.1", int(port), create_app(Cluster(token)), threaded=True, ssl_context=context)


if __name__ == "__main__":
    main()
