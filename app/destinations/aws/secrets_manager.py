"""Certificates as secrets of AWS Secrets Manager.

One secret per slot. A version's ID is derived from the certificate, so that writing it twice has no effect and the held
version is known without reading a secret. A version is first added with a label of its own; then `AWSCURRENT` is moved
to it from the version that held it, which AWS refuses if the label has moved meanwhile.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from botocore.exceptions import ClientError
from pydantic import Field

from app.destinations.aws.client import SLOT_TAG, Aws, AwsConfig, Region
from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationRefusedError,
    DestinationUnavailableError,
    Version,
)
from app.destinations.secret_document import MAX_CONFLICTS, secret_document
from app.destinations.slots import SlotTemplate, fill, parse_version, version_text

_COMING = "certcourier-coming"


class SecretsManagerConfig(AwsConfig):
    """`[[destination]]` with `kind = "aws-secrets"`."""

    kind: Literal["aws-secrets"]
    region: Region = Field(description="AWS region.")
    secret_name: SlotTemplate = Field(
        "certcourier/{slot}", description="Name of the secret; `{slot}` is the lineage's name."
    )
    kms_key_id: str | None = Field(None, description="KMS key for new secrets. Default: AWS's own.")


class SecretsManagerDestination:
    """Adds versions and moves the label `AWSCURRENT`."""

    Config = SecretsManagerConfig

    def __init__(self, config: SecretsManagerConfig) -> None:
        self._config = config
        self._aws = Aws(config, "secretsmanager")

    @property
    def config(self) -> SecretsManagerConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        name, region = fill(self._config.secret_name, bundle.slot), self._config.region
        with self._aws.translated_errors(region, name):
            client = self._aws.client(region)
            for _ in range(MAX_CONFLICTS):
                result = self._try(client, name, bundle)
                if result is not None:
                    return result
        raise DestinationUnavailableError(f"{region}, {name}: too many concurrent writers; retrying later")

    def check(self) -> None:
        self._aws.check()

    def _try(self, client: Any, name: str, bundle: Bundle) -> DeliveryResult | None:
        """None if another writer was faster: then read again."""
        version_id = _version_id(bundle)
        document = json.dumps(secret_document(bundle))
        secret = _describe(client, name)
        if secret is None:
            if not self._create(client, name, bundle.slot, version_id, document):
                return None
            return DeliveryResult("delivered", f"{self._config.region}, {name}")
        self._check_owner(secret, name, bundle.slot)
        current = _current_id(secret)
        held = _version_of(current)
        if current == version_id:
            return DeliveryResult("delivered", f"{self._config.region}, {name}")
        if held is not None and held > bundle.version:
            return DeliveryResult("superseded", f"{name} holds the newer certificate {held.certificate_id}")
        client.put_secret_value(
            SecretId=name, ClientRequestToken=version_id, SecretString=document, VersionStages=[_COMING]
        )
        if not _move_current(client, name, current, version_id):
            return None
        return DeliveryResult("delivered", f"{self._config.region}, {name}")

    def _create(self, client: Any, name: str, slot: str, version_id: str, document: str) -> bool:
        tags = self._config.tags | {SLOT_TAG: slot}
        more = {"KmsKeyId": self._config.kms_key_id} if self._config.kms_key_id else {}
        try:
            client.create_secret(
                Name=name,
                ClientRequestToken=version_id,
                SecretString=document,
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                **more,
            )
        except client.exceptions.ResourceExistsException:
            return False
        return True

    def _check_owner(self, secret: dict[str, Any], name: str, slot: str) -> None:
        if secret.get("DeletedDate"):
            raise DestinationRefusedError(f"{name} is scheduled for deletion in AWS; restore it there, then retry")
        tags = {tag["Key"]: tag["Value"] for tag in secret.get("Tags", [])}
        if tags.get(SLOT_TAG) != slot:
            raise DestinationRefusedError(
                f"{name} exists but is not managed by Certcourier: it has no tag {SLOT_TAG}={slot}; choose another "
                "secret_name, or add the tag"
            )


def _describe(client: Any, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.describe_secret(SecretId=name)
    except client.exceptions.ResourceNotFoundException:
        return None
    return found


def _move_current(client: Any, name: str, current: str | None, version_id: str) -> bool:
    seen = {"RemoveFromVersionId": current} if current else {}
    try:
        client.update_secret_version_stage(SecretId=name, VersionStage="AWSCURRENT", MoveToVersionId=version_id, **seen)
    except ClientError as error:  # the label is no longer where it was seen
        if error.response["Error"]["Code"] in {"InvalidParameterException", "InvalidRequestException"}:
            return False
        raise
    return True


def _current_id(secret: dict[str, Any]) -> str | None:
    stages = secret.get("VersionIdsToStages") or {}
    return next((version_id for version_id, labels in stages.items() if "AWSCURRENT" in labels), None)


def _version_id(bundle: Bundle) -> str:
    """`20261123T183000Z-101967-<start of the fingerprint>`: AWS requires 32 to 64 characters."""
    return f"{version_text(bundle.version)}-{bundle.fingerprint[:24]}"


def _version_of(version_id: str | None) -> Version | None:
    return parse_version((version_id or "").rpartition("-")[0])
