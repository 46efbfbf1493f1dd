"""The destinations in AWS, against moto as a server (see `tests.support.fakes.aws`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import pytest
import requests
from botocore.loaders import create_loader

from app.destinations.base import Bundle, Destination, DestinationRefusedError, DestinationUnavailableError
from app.destinations.secret_document import secret_document
from app.destinations.slots import version_text
from tests.support.fakes.aws import aws_server
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
REGION = "eu-central-1"
SLOT = "www.example.com"


@pytest.fixture(scope="module", autouse=True)
def shared_service_models() -> Iterator[None]:
    """Read boto's descriptions of the services once, not for each client."""
    with patch("botocore.session.create_loader", cache(create_loader)):
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with aws_server(tmp_path_factory.mktemp("aws")) as url:
        yield url


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The usual chain, of which only the environment is there."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@dataclass
class Aws:
    """One of the two kinds, and how to look at what it did."""

    kind: str
    url: str
    folder: Path

    def file(self, **fields: Any) -> Path:
        where: dict[str, Any] = {"regions": [REGION]} if self.kind == "aws-acm" else {"region": REGION}
        return write_destination(self.folder, **({"kind": self.kind, "endpoint_url": self.url} | where | fields))

    def open(self, **fields: Any) -> Destination:
        return open_destination(self.file(**fields))

    def client(self, service: str, region: str = REGION) -> Any:
        return boto3.client(service, region_name=region, endpoint_url=self.url)

    def held(self, slot: str = SLOT, region: str = REGION) -> str:
        """The leaf that users of the slot get."""
        if self.kind == "aws-acm":
            client = self.client("acm", region)
            tags = {arn: client.list_tags_for_certificate(CertificateArn=arn)["Tags"] for arn in self.arns(region)}
            (arn,) = [arn for arn in tags if {"Key": "certcourier:slot", "Value": slot} in tags[arn]]
            return str(client.get_certificate(CertificateArn=arn)["Certificate"])
        client = self.client("secretsmanager")  # moto forgets that AWSCURRENT is the default once it was moved
        found = client.get_secret_value(SecretId=f"certcourier/{slot}", VersionStage="AWSCURRENT")
        return str(json.loads(found["SecretString"])["certificate"])

    def arns(self, region: str = REGION) -> list[str]:
        found = self.client("acm", region).list_certificates()["CertificateSummaryList"]
        return [item["CertificateArn"] for item in found]


@pytest.fixture(params=["aws-acm", "aws-secrets"])
def aws(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> Aws:
    requests.post(f"{server}/moto-api/reset", timeout=10)
    return Aws(request.param, server, tmp_path)


@pytest.fixture
def acm(server: str, tmp_path: Path) -> Aws:
    requests.post(f"{server}/moto-api/reset", timeout=10)
    return Aws("aws-acm", server, tmp_path)


@pytest.fixture
def secrets(server: str, tmp_path: Path) -> Aws:
    requests.post(f"{server}/moto-api/reset", timeout=10)
    return Aws("aws-secrets", server, tmp_path)


@pytest.fixture
def proxy(server: str) -> Iterator[FaultProxy]:
    with FaultProxy(server) as proxy:
        yield proxy


def same(pem: str, one: Bundle) -> bool:
    return pem.strip() == one.leaf_pem.strip()


# Both kinds


def test_a_first_delivery_is_there(aws: Aws) -> None:
    assert aws.open().deliver(bundle(1)).outcome == "delivered"
    assert same(aws.held(), bundle(1))


def test_a_renewal_takes_its_place(aws: Aws) -> None:
    aws.open().deliver(bundle(1))
    assert aws.open().deliver(bundle(2)).outcome == "delivered"
    assert same(aws.held(), bundle(2))


def test_an_older_certificate_never_replaces_a_newer_one(aws: Aws) -> None:
    aws.open().deliver(bundle(2))
    assert aws.open().deliver(bundle(1)).outcome == "superseded"
    assert same(aws.held(), bundle(2))


def test_delivering_twice_changes_nothing(aws: Aws, proxy: FaultProxy) -> None:
    aws.open().deliver(bundle(1))
    assert aws.open(endpoint_url=proxy.url).deliver(bundle(1)).outcome == "delivered"
    assert not [call for call in proxy.calls if re.search("Import|Put|Create|Update|Add", call)]


def test_a_service_that_is_down_is_tried_again(aws: Aws, proxy: FaultProxy) -> None:
    destination = aws.open(endpoint_url=proxy.url)
    proxy.close()
    with pytest.raises(DestinationUnavailableError, match="no answer"):
        destination.deliver(bundle(1))
    proxy.open()
    assert destination.deliver(bundle(1)).outcome == "delivered"


@pytest.mark.parametrize(
    ("status", "code"), [(400, "ThrottlingException"), (500, "InternalFailure"), (503, "ServiceUnavailable")]
)
def test_a_service_that_is_overloaded_is_tried_again(aws: Aws, proxy: FaultProxy, status: int, code: str) -> None:
    destination = aws.open(endpoint_url=proxy.url)
    proxy.answer(status, json.dumps({"__type": code, "message": "Rate exceeded"}).encode())
    with pytest.raises(DestinationUnavailableError, match=code):
        destination.deliver(bundle(1))
    assert len(proxy.calls) == 1
    assert destination.deliver(bundle(1)).outcome == "delivered"


@pytest.mark.chaos
@pytest.mark.parametrize("renewal", [False, True], ids=["first", "renewal"])
def test_killed_between_any_two_calls_it_is_delivered_again(aws: Aws, proxy: FaultProxy, renewal: bool) -> None:
    """As many processes are killed as a delivery makes calls, each before another one of them."""
    file = aws.file(endpoint_url=proxy.url)
    before = len(proxy.calls)
    if renewal:
        open_destination(file).deliver(bundle(0, "count.example.com"))
        before = len(proxy.calls)
    open_destination(file).deliver(bundle(1, "count.example.com"))
    calls = len(proxy.calls) - before
    assert calls >= 2
    for number in range(calls):
        slot = f"kill{number}.example.com"
        if renewal:
            aws.open().deliver(bundle(1, slot))
            file = aws.file(endpoint_url=proxy.url)
        proxy.hold_after(number)
        process = start_delivery(file, bundle(2, slot))
        assert proxy.held.wait(60)
        assert end_delivery(process, kill=True) == ""
        proxy.release()
        assert open_destination(file).deliver(bundle(2, slot)).outcome == "delivered"
        assert same(aws.held(slot), bundle(2, slot))
        file = aws.file(endpoint_url=proxy.url)
    if aws.kind == "aws-acm":
        assert len(aws.arns()) == calls + 1


def test_a_lost_answer_leads_to_one_certificate(aws: Aws, proxy: FaultProxy) -> None:
    destination = aws.open(endpoint_url=proxy.url)
    proxy.lose_answer_after(1)  # that of ImportCertificate or CreateSecret
    with pytest.raises(DestinationUnavailableError):
        destination.deliver(bundle(1))
    assert any("Import" in call or "Create" in call for call in proxy.calls)
    assert aws.open().deliver(bundle(1)).outcome == "delivered"
    assert same(aws.held(), bundle(1))


def test_credentials_that_are_missing_are_named(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DestinationRefusedError, match="no usable AWS credentials"):
        aws.open().deliver(bundle(1))


def test_a_profile_that_is_missing_is_found_by_the_check(aws: Aws) -> None:
    aws.open().check()
    with pytest.raises(DestinationRefusedError, match="profile"):
        aws.open(profile="nobody").check()


def test_the_documented_policy_is_enough_and_less_is_refused_with_the_action(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto enforces IAM here: a user with the policy of docs/destinations.md, then one without."""
    documents = map(json.loads, re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL))
    policies = [document for document in documents if "Statement" in document]
    policy = policies[0 if aws.kind == "aws-acm" else 1]
    iam = aws.client("iam")
    keys = {}
    for name in ("courier", "nobody"):
        iam.create_user(UserName=name)
        keys[name] = iam.create_access_key(UserName=name)["AccessKey"]
    iam.put_user_policy(UserName="courier", PolicyName="certcourier", PolicyDocument=json.dumps(policy))
    requests.post(f"{aws.url}/moto-api/reset-auth", data="0", timeout=10)
    try:
        for name in ("courier", "nobody", "stranger"):
            key = keys.get(name, {"AccessKeyId": "AKIAWRONG", "SecretAccessKey": "wrong-secret"})
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
            if name == "courier":
                assert aws.open().deliver(bundle(1)).outcome == "delivered"
                assert aws.open().deliver(bundle(2)).outcome == "delivered"
                continue
            action = "acm:ListCertificates" if aws.kind == "aws-acm" else "secretsmanager:DescribeSecret"
            expected = f"allow the action {action}" if name == "nobody" else "rejected the credentials"
            with pytest.raises(DestinationRefusedError, match=expected) as caught:
                aws.open().deliver(bundle(3))
            assert key["SecretAccessKey"] not in str(caught.value)
    finally:
        requests.post(f"{aws.url}/moto-api/reset-auth", data="inf", timeout=10)


# Certificate Manager


def test_a_renewal_keeps_the_arn_and_the_tags(acm: Aws) -> None:
    acm.open(tags={"owner": "shop"}).deliver(bundle(1))
    before = acm.arns()
    acm.open().deliver(bundle(2))
    assert acm.arns() == before
    tags = acm.client("acm").list_tags_for_certificate(CertificateArn=before[0])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {
        "owner": "shop",
        "certcourier:slot": SLOT,
        "certcourier:version": version_text(bundle(2).version),
    }


def test_every_region_gets_it(acm: Aws) -> None:
    regions = [REGION, "us-east-1"]
    destination = acm.open(regions=regions)
    destination.deliver(bundle(1))
    assert [len(acm.arns(region)) for region in regions] == [1, 1]
    acm.open().deliver(bundle(2))
    assert same(acm.held(region="us-east-1"), bundle(1))
    destination.deliver(bundle(2))
    assert all(same(acm.held(region=region), bundle(2)) for region in regions)


def test_certificates_of_others_are_left_alone(acm: Aws) -> None:
    theirs = bundle(0)
    acm.client("acm").import_certificate(Certificate=theirs.leaf_pem.encode(), PrivateKey=theirs.key.reveal().encode())
    acm.open().deliver(bundle(1))
    assert len(acm.arns()) == 2


def test_threads_of_one_process_leave_the_newest(acm: Aws) -> None:
    destination = acm.open()
    destination.deliver(bundle(0))
    outcomes = race({number: (destination, bundle(number)) for number in (5, 1, 3, 6, 2, 4)})
    assert outcomes[6] == "delivered"
    assert same(acm.held(), bundle(6))


def test_an_older_one_imported_over_a_newer_one_says_so(acm: Aws, proxy: FaultProxy) -> None:
    """Another process imports a newer one between the last look and the import: ACM itself cannot tell."""
    acm.open().deliver(bundle(1))
    destination = acm.open(endpoint_url=proxy.url)
    held = acm.arns()[0]
    proxy.before_call("Import", lambda: acm.open().deliver(bundle(3)))
    with pytest.raises(DestinationRefusedError, match="redeliver the newer one"):
        destination.deliver(bundle(2))
    assert acm.open().deliver(bundle(3)).outcome == "delivered"
    assert same(acm.held(), bundle(3))
    assert acm.arns() == [held]


# Secrets Manager


def test_a_secret_holds_everything_and_keeps_its_previous_version(secrets: Aws) -> None:
    secrets.open().deliver(bundle(1))
    secrets.open().deliver(bundle(2))
    client = secrets.client("secretsmanager")
    for stage, number in (("AWSCURRENT", 2), ("AWSPREVIOUS", 1)):
        value = client.get_secret_value(SecretId=f"certcourier/{SLOT}", VersionStage=stage)["SecretString"]
        assert json.loads(value) == secret_document(bundle(number))


def test_writers_of_a_secret_that_race_leave_the_newest(secrets: Aws) -> None:
    for turn in range(5):
        slot = f"race{turn}.example.com"
        outcomes = race({number: (secrets.open(), bundle(number, slot)) for number in (5, 1, 7, 3, 8, 2, 6, 4)})
        assert len(outcomes) == 8
        assert outcomes[8] == "delivered"
        assert same(secrets.held(slot), bundle(8, slot))


@pytest.mark.parametrize("call", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_newer_secret_written_between_two_calls_stays(secrets: Aws, proxy: FaultProxy, call: str) -> None:
    secrets.open().deliver(bundle(1))
    proxy.before_call(call, lambda: secrets.open().deliver(bundle(3)))
    assert secrets.open(endpoint_url=proxy.url).deliver(bundle(2)).outcome == "superseded"
    assert same(secrets.held(), bundle(3))


def test_a_newer_secret_made_between_looking_and_making_stays(secrets: Aws, proxy: FaultProxy) -> None:
    proxy.before_call("CreateSecret", lambda: secrets.open().deliver(bundle(3)))
    assert secrets.open(endpoint_url=proxy.url).deliver(bundle(2)).outcome == "superseded"
    assert same(secrets.held(), bundle(3))


def test_a_secret_of_somebody_else_is_left_alone(secrets: Aws) -> None:
    secrets.client("secretsmanager").create_secret(Name=f"certcourier/{SLOT}", SecretString="theirs")
    with pytest.raises(DestinationRefusedError, match="not managed by Certcourier"):
        secrets.open().deliver(bundle(1))
    found = secrets.client("secretsmanager").get_secret_value(SecretId=f"certcourier/{SLOT}")
    assert found["SecretString"] == "theirs"


def test_a_secret_that_is_being_deleted_is_named(secrets: Aws) -> None:
    secrets.open().deliver(bundle(1))
    secrets.client("secretsmanager").delete_secret(SecretId=f"certcourier/{SLOT}")
    with pytest.raises(DestinationRefusedError, match="scheduled for deletion"):
        secrets.open().deliver(bundle(2))
