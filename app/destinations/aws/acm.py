"""Certificates imported into AWS Certificate Manager; a renewal keeps the ARN, so that its users follow.

ACM has no conditional import. So a delivery first announces its version by a tag, then imports, then reads again. This
detects most races of an older certificate with a newer one, not all: an older delivery that is paused just before its
announcement, while another process delivers the newer one, is not detected here. The newer one is then delivered again
(`app.deliveries.delivery`). Deliveries of one process to a slot are serialized.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Literal

from cryptography import x509
from pydantic import Field

from app.destinations.aws.client import SLOT_TAG, VERSION_TAG, Aws, AwsConfig, Region
from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationRefusedError,
    DestinationUnavailableError,
    Version,
)
from app.destinations.slots import fill, parse_version, version_text

# Unless asked for, ListCertificates leaves out all but RSA keys of 1024 and 2048 bits.
_KEY_TYPES = ["RSA_2048", "RSA_1024", "RSA_3072", "RSA_4096", "EC_prime256v1", "EC_secp384r1", "EC_secp521r1"]


class AcmConfig(AwsConfig):
    """`[[destination]]` with `kind = "aws-acm"`."""

    kind: Literal["aws-acm"]
    regions: tuple[Region, ...] = Field(
        min_length=1, description="AWS regions to import into; CloudFront requires `us-east-1`."
    )


@dataclass(frozen=True, slots=True)
class _Imported:
    """One certificate in ACM with the slot's tag. `announced` may not be imported yet."""

    arn: str
    serial: int
    announced: Version | None
    version: Version


class AcmDestination:
    """Imports certificates, and finds earlier imports by their tags."""

    Config = AcmConfig

    def __init__(self, config: AcmConfig) -> None:
        self._config = config
        self._aws = Aws(config, "acm")
        self._turns: dict[str, threading.Lock] = {}
        self._known: dict[tuple[str, str], str] = {}

    @property
    def config(self) -> AcmConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        fill("{slot}", bundle.slot)
        results = []
        with self._turns.setdefault(bundle.slot, threading.Lock()):
            for region in self._config.regions:
                with self._aws.translated_errors(region, bundle.slot):
                    results.append(self._deliver(region, bundle))
        outcome: Literal["delivered", "superseded"] = (
            "delivered" if any(result.outcome == "delivered" for result in results) else "superseded"
        )
        return DeliveryResult(outcome, "; ".join(result.detail for result in results))

    def check(self) -> None:
        self._aws.check()

    def _deliver(self, region: str, bundle: Bundle) -> DeliveryResult:
        client, serial = self._aws.client(region), _serial(bundle)
        found = self._find(region, bundle.slot, bundle.names)
        if not found:
            arn = self._import(client, bundle, tags=self._config.tags | {SLOT_TAG: bundle.slot})
            self._known[region, bundle.slot] = arn
            found = self._find(region, bundle.slot, bundle.names)  # another process may have been first at once
        newest = max(max(item.version, item.announced or item.version) for item in found)
        if newest > bundle.version:
            return DeliveryResult("superseded", f"{found[0].arn} holds the newer certificate {newest.certificate_id}")
        for item in found:  # usually one; several if two first imports ran at the same time
            if item.serial != serial or item.announced != bundle.version:
                self._replace(client, item.arn, bundle, serial)
        return DeliveryResult("delivered", ", ".join(item.arn for item in found))

    def _replace(self, client: Any, arn: str, bundle: Bundle, serial: int) -> None:
        version = [{"Key": VERSION_TAG, "Value": version_text(bundle.version)}]
        client.add_tags_to_certificate(CertificateArn=arn, Tags=version)
        self._import(client, bundle, arn=arn)
        after = _read(client, arn, bundle.slot)
        if after is None:
            raise DestinationUnavailableError(f"{arn} was changed by another writer; retrying")
        if after.announced is not None and after.announced > bundle.version and after.serial == serial:
            raise DestinationRefusedError(
                f"{arn}: certificate {bundle.version.certificate_id} was imported over the newer "
                f"{after.announced.certificate_id} at the same time; redeliver the newer one"
            )
        if after.serial != serial:
            raise DestinationUnavailableError(f"{arn}: another certificate was imported at the same time; retrying")

    def _import(
        self, client: Any, bundle: Bundle, *, arn: str | None = None, tags: dict[str, str] | None = None
    ) -> str:
        more: dict[str, Any] = {}
        if arn:
            more["CertificateArn"] = arn
        if tags is not None:  # ACM takes tags with a first import only
            tags = tags | {VERSION_TAG: version_text(bundle.version)}
            more["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        answer = client.import_certificate(
            Certificate=bundle.leaf_pem.encode(),
            PrivateKey=bundle.key.reveal().encode(),
            CertificateChain=bundle.chain_pem.encode(),
            **more,
        )
        return str(answer["CertificateArn"])

    def _find(self, region: str, slot: str, names: tuple[str, ...] = ()) -> list[_Imported]:
        """Certificates with the slot's tag. With `names`, the tags of certificates for other names are not read."""
        client = self._aws.client(region)
        pages = client.get_paginator("list_certificates").paginate(Includes={"keyTypes": _KEY_TYPES})
        arns = [
            summary["CertificateArn"]
            for page in pages
            for summary in page["CertificateSummaryList"]
            if summary.get("Type", "IMPORTED") == "IMPORTED" and (not names or summary.get("DomainName") in names)
        ]
        known = self._known.get((region, slot))
        if known is not None and known not in arns:  # ACM's list may lag behind
            arns.append(known)
        found = [item for item in (_read(client, arn, slot) for arn in arns) if item is not None]
        return sorted(found, key=lambda item: item.arn)


def _read(client: Any, arn: str, slot: str) -> _Imported | None:
    """The certificate with its tags, or None if it is gone or not the slot's."""
    try:
        answer = client.list_tags_for_certificate(CertificateArn=arn)
        tags = {tag["Key"]: tag.get("Value", "") for tag in answer["Tags"]}
        if tags.get(SLOT_TAG) != slot:
            return None
        certificate = client.describe_certificate(CertificateArn=arn)["Certificate"]
    except client.exceptions.ResourceNotFoundException:
        return None
    announced = parse_version(tags.get(VERSION_TAG))
    not_before = certificate["NotBefore"].astimezone(UTC)
    same = announced is not None and announced.not_before == not_before
    version = Version(not_before, announced.certificate_id if same and announced else 0)
    return _Imported(arn, int(certificate["Serial"].replace(":", ""), 16), announced, version)


def _serial(bundle: Bundle) -> int:
    return x509.load_pem_x509_certificate(bundle.leaf_pem.encode()).serial_number
