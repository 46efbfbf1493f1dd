"""Renewal information as RFC 9773 has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import responses

from app.renewals.ari import is_early
from app.renewals.ari_client import (
    Authority,
    AuthorityUnavailableError,
    NotOfThisAuthorityError,
    RenewalInfoResponse,
    certificate_identifier,
)

URL = "https://ca.example/renewal-info"
WINDOW = {"suggestedWindow": {"start": "2027-01-03T00:00:00Z", "end": "2027-01-07T00:00:00+00:00"}}
START, END = datetime(2027, 1, 3, tzinfo=UTC), datetime(2027, 1, 7, tzinfo=UTC)

# The end-entity certificate of RFC 9773, appendix A.
EXAMPLE = """-----BEGIN CERTIFICATE-----
MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt
cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS
BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu
7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf
qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B
yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb
+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK
-----END CERTIFICATE-----
"""


def ask(**answer: Any) -> RenewalInfoResponse:
    with responses.RequestsMock() as mock:
        mock.get(f"{URL}/key.serial", **answer)
        return Authority(URL + "/").fetch("key.serial")


def test_a_certificate_is_named_as_in_the_rfcs_example() -> None:
    assert certificate_identifier(EXAMPLE) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_window_explanation_and_pause_are_read() -> None:
    document = WINDOW | {"explanationURL": "https://ca.example/incident"}
    info = ask(json=document, headers={"Retry-After": "21600"})
    assert info == RenewalInfoResponse(START, END, "https://ca.example/incident", 21600.0)


@pytest.mark.parametrize(
    ("header", "seconds"), [("1", 60), ("9999999", 86_400), ("soon", 21_600), ("nan", 21_600), (None, 21_600)]
)
def test_the_pause_is_kept_within_the_rfcs_limits(header: str | None, seconds: float) -> None:
    assert ask(json=WINDOW, headers={"Retry-After": header} if header else {}).retry_after == seconds


@pytest.mark.parametrize(
    "body",
    [
        "<html>",
        "[]",
        "{}",
        '{"suggestedWindow": {"start": "2027-01-03T00:00:00Z", "end": 7}}',
        '{"suggestedWindow": {"start": "2027-01-03T00:00:00Z", "end": "2027-01-03T00:00:00Z"}}',
    ],
)
def test_an_answer_that_is_no_window_is_no_answer(body: str) -> None:
    with pytest.raises(AuthorityUnavailableError):
        ask(body=body)


def test_a_busy_authority_has_the_time_to_wait() -> None:
    with pytest.raises(AuthorityUnavailableError) as caught:
        ask(status=503, headers={"Retry-After": "120"})
    assert caught.value.retry_after == 120


def test_a_certificate_of_another_authority_is_distinguished_from_an_unavailable_authority() -> None:
    with pytest.raises(NotOfThisAuthorityError):
        ask(status=404)


@pytest.mark.parametrize(
    ("now", "start", "end", "known_before", "early"),
    [
        (10, 58, 62, False, False),  # the usual window of a 90-day certificate, beside DNSimple's day 60
        (61, 58, 62, True, False),
        (70, 58, 62, True, False),
        (10, 9, 9.5, False, True),  # an incident: at once
        (10, 11, 15, False, True),  # an incident: within some days
        (70, 69, 69.5, True, True),  # an incident while DNSimple is late
        (70, 71, 75, True, False),  # not started yet
        (70, 69, 69.5, False, False),  # first seen: nothing to compare with
    ],
)
def test_a_window_is_early_when_no_renewal_is_expected_in_it(
    now: float, start: float, end: float, *, known_before: bool, early: bool
) -> None:
    """Days of a 90-day certificate's life."""
    birth = datetime(2027, 1, 1, tzinfo=UTC)
    at = [birth + timedelta(days=days) for days in (start, end, 60, now, 58, 62)]
    before = (at[4], at[5]) if known_before else None
    assert is_early(RenewalInfoResponse(at[0], at[1], None, 60.0), before, at[2], at[3]) is early
