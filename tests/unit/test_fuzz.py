"""What comes from outside, made up by a machine: nothing but the errors that are promised ever comes out.

A few hundred inputs each in the suite; `make fuzz` takes FUZZ_EXAMPLES of them.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from app.certificates.verification import VerificationError, VerifiedCertificate, verify
from app.crypto.encryption import DecryptionError, Encryptor, KeyNotHeldError
from app.domain_names import InvalidFieldError, covers, parse_domain, resolve_names
from app.events.ingestion import InvalidEventError, parse_event
from app.identifiers import LARGEST_ID
from tests.support.x509 import Authority

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ODD_ID = st.one_of(st.integers(-1, 2**64), st.booleans(), st.floats(), st.text(max_size=5), st.none())
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["certificate.issue", "certificate.reissue", "domain.create"]) | st.text(max_size=120),
        "request_identifier": st.uuids().map(str) | st.text(max_size=140),
        "account": st.fixed_dictionaries({}, optional={"id": ODD_ID}) | JSON,
        "data": st.fixed_dictionaries(
            {},
            optional={"certificate": st.fixed_dictionaries({}, optional={"id": ODD_ID, "domain_id": ODD_ID}) | JSON},
        )
        | JSON,
    },
)
BODY = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=400).map(lambda text: text.encode(errors="replace")),
    JSON.map(lambda value: json.dumps(value).encode()),
    EVENT.map(lambda value: json.dumps(value).encode()),
    st.tuples(EVENT, st.sampled_from(["utf-16", "utf-8-sig", "latin-1"])).map(
        lambda pair: json.dumps(pair[0]).encode(pair[1])
    ),
)


@fuzz
@given(BODY)
def test_any_body_is_an_event_or_is_refused(body: bytes) -> None:
    try:
        read = parse_event(body)
    except InvalidEventError as error:
        message = str(error)
    else:
        message = ""
    event("refused" if message else "read")
    assert len(message) < 200
    if message:
        return
    assert 0 < len(read.name) <= 100
    assert 0 < len(read.request_identifier) <= 128
    assert (read.name + read.request_identifier).isprintable()
    for number in (read.account_id, read.certificate_id, read.domain_id):
        assert number is None or (type(number) is int and 0 < number <= LARGEST_ID)


LABEL = st.text(st.characters(codec="utf-8"), max_size=70)
HOST = st.one_of(
    st.text(max_size=80),
    st.lists(LABEL, min_size=1, max_size=6).map(".".join),
    st.from_regex(r"(?:[a-z0-9*-]{1,20}\.){1,4}[a-z]{2,6}", fullmatch=True),
)


@fuzz
@given(HOST)
def test_any_text_is_a_domain_in_a_labels_or_is_refused(text: str) -> None:
    try:
        domain = parse_domain(text)
    except InvalidFieldError:
        return
    assert domain.isascii()
    assert set(domain) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert 3 <= len(domain) <= 253
    assert ".." not in domain
    assert domain[0] not in ".-"
    assert parse_domain(domain) == domain


@fuzz
@given(HOST, st.sampled_from(["", "www", "*", "@"]) | HOST, st.lists(HOST, max_size=4))
def test_any_names_are_resolved_inside_the_domain_or_are_refused(domain: str, name: str, san: list[str]) -> None:
    try:
        names = resolve_names(domain, name, san)
    except InvalidFieldError:
        return
    for each in names.names:
        assert each == names.domain or each.endswith(f".{names.domain}")
        assert each.isascii()
        assert "/" not in each
        assert covers(names.names, each)


ENCRYPTOR = Encryptor(base64.b64encode(b"k" * 32).decode())
BLOB = ENCRYPTOR.encrypt("certificate:7", "the key")


@fuzz
@given(
    st.one_of(
        st.binary(max_size=120),
        st.binary(max_size=120).map(lambda rest: BLOB[:9] + rest),
        st.tuples(st.integers(0, len(BLOB) - 1), st.integers(1, 255)).map(
            lambda change: BLOB[: change[0]] + bytes([BLOB[change[0]] ^ change[1]]) + BLOB[change[0] + 1 :]
        ),
        st.integers(0, len(BLOB) - 1).map(lambda length: BLOB[:length]),
    )
)
def test_nothing_but_the_ciphertext_itself_decrypts(blob: bytes) -> None:
    with pytest.raises((DecryptionError, KeyNotHeldError)):
        ENCRYPTOR.decrypt("certificate:7", blob)


@fuzz
@given(st.text(), st.integers(1, LARGEST_ID), st.integers(1, LARGEST_ID))
def test_any_text_decrypts_for_its_owner_only(text: str, number: int, other: int) -> None:
    try:
        blob = ENCRYPTOR.encrypt(f"certificate:{number}", text)
    except UnicodeEncodeError:  # half a surrogate pair: no text at all
        return
    assert ENCRYPTOR.decrypt(f"certificate:{number}", blob) == text
    if other != number:
        with pytest.raises(DecryptionError):
            ENCRYPTOR.decrypt(f"certificate:{other}", blob)


ISSUED = Authority().issue("www.customer.example", "customer.example")
OTHER = Authority("Other").issue("www.customer.example")
NOW = datetime.now(UTC)


def _damaged(pem: str) -> st.SearchStrategy[str]:
    """The same text, or cut, with bytes changed inside of its base64, doubled, or of another kind."""
    lines = pem.splitlines()
    body = base64.b64decode("".join(lines[1:-1]))

    def wrapped(raw: bytes) -> str:
        return f"{lines[0]}\n{base64.encodebytes(raw).decode()}{lines[-1]}\n"

    changed = st.tuples(st.integers(0, len(body) - 1), st.integers(1, 255)).map(
        lambda change: wrapped(body[: change[0]] + bytes([body[change[0]] ^ change[1]]) + body[change[0] + 1 :])
    )
    return st.one_of(
        st.just(pem),
        changed,
        st.integers(0, len(body)).map(lambda length: wrapped(body[:length])),
        st.integers(0, len(pem)).map(lambda length: pem[:length]),
        st.text(max_size=50).map(lambda text: text + pem),
        st.text(max_size=200),
        st.sampled_from([ISSUED.leaf, ISSUED.chain[0], ISSUED.key, OTHER.leaf, OTHER.key, OTHER.chain[0]]),
    )


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # it is refused later on
@fuzz
@given(
    _damaged(ISSUED.leaf), st.lists(_damaged(ISSUED.chain[0]), max_size=3), _damaged(ISSUED.key),
    st.lists(st.sampled_from(["www.customer.example", "customer.example", "other.example"]), max_size=2),
)  # fmt: skip
def test_any_answer_is_verified_or_is_refused_without_telling_the_key(
    leaf: str, chain: list[str], key: str, names: list[str]
) -> None:
    try:
        found = verify(leaf, chain, key, now=NOW, must_cover=names)
    except VerificationError as error:
        event("refused")
        message: Any = f"{error}{error.__cause__}"
        assert not any(len(line) > 20 and line in message for line in key.splitlines())
        return
    event("verified")
    assert isinstance(found, VerifiedCertificate)
    assert "other.example" not in names
    assert found.leaf_pem in {ISSUED.leaf, OTHER.leaf}
    assert (found.leaf_pem == ISSUED.leaf) == (found.serial == verify_serial())


def verify_serial() -> str:
    return verify(ISSUED.leaf, ISSUED.chain, ISSUED.key, now=NOW).serial
