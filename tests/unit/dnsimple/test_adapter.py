"""What DNSimple's answers become: values, or errors of the tree (contract, sections 1 and 4)."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import responses

from app.dnsimple import errors
from app.dnsimple.adapter import Answer, DNSimple, Purpose
from app.dnsimple.budgeted_calls import RateLimit, UnlimitedBudget
from app.errors import CertcourierError, OutcomeUnknownError, PermanentError, RetryableError

TOKEN = "a-very-secret-token"
BASE = "https://api.dnsimple.com/v2"
CERTIFICATES = f"{BASE}/1010/domains/example.com/certificates"
CERTIFICATE = {
    "id": 101967,
    "domain_id": 5,
    "contact_id": 3,
    "name": "www",
    "common_name": "www.example.com",
    "years": 1,
    "csr": None,
    "state": "requesting",
    "auto_renew": False,
    "alternate_names": [],
    "authority_identifier": "letsencrypt",
    "created_at": "2026-11-23T18:54:17Z",
    "updated_at": "2026-11-23T18:54:17Z",
    "expires_at": None,
    "expires_on": None,
}


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mocked:
        yield mocked


@pytest.fixture
def dnsimple() -> DNSimple:
    return DNSimple(account_id=1010, token=TOKEN)


def get(dnsimple: DNSimple) -> Any:
    return dnsimple.certificate("example.com", 101967)


def post(dnsimple: DNSimple) -> Any:
    return dnsimple.issue("example.com", 101967)


def answer(mocked: responses.RequestsMock, call: Callable[[DNSimple], Any], **more: Any) -> None:
    method, path = ("GET", "/101967") if call is get else ("POST", "/letsencrypt/101967/issue")
    mocked.add(method, CERTIFICATES + path, **more)


def failure(dnsimple: DNSimple, call: Callable[[DNSimple], Any]) -> CertcourierError:
    with pytest.raises(CertcourierError) as caught:
        call(dnsimple)
    whole = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in whole + repr(vars(caught.value)) + repr(dnsimple)
    return caught.value


REFUSALS = [
    (400, errors.RefusedError),
    (401, errors.AuthenticationError),
    (402, errors.PaymentRequiredError),
    (403, errors.ForbiddenError),
    (404, errors.NotFoundError),
    (405, errors.RefusedError),
    (412, errors.PlanLimitError),
    (418, errors.RefusedError),
]


@pytest.mark.parametrize("call", [get, post])
@pytest.mark.parametrize(("status", "kind"), REFUSALS)
def test_a_refusal_contains_dnsimples_message(
    mocked: responses.RequestsMock, dnsimple: DNSimple, call: Any, status: int, kind: type[errors.DNSimpleError]
) -> None:
    answer(mocked, call, status=status, json={"message": "No."}, headers={"X-Request-Id": "abc-1"})
    error = failure(dnsimple, call)
    assert type(error) is kind
    assert isinstance(error, PermanentError)
    assert (error.message, error.status, error.request_id) == ("No.", status, "abc-1")
    assert "No." in str(error)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
@pytest.mark.parametrize("body", ['{"message": "Could not query zone"}', "<html>502 Bad Gateway</html>", "", "null"])
def test_a_server_fault_is_retryable_for_a_read_and_unknown_for_an_order(
    mocked: responses.RequestsMock, dnsimple: DNSimple, status: int, body: str
) -> None:
    for call, branch in ((get, RetryableError), (post, OutcomeUnknownError)):
        answer(mocked, call, status=status, body=body)
        error = failure(dnsimple, call)
        assert isinstance(error, branch)
        assert isinstance(error, errors.DNSimpleError)
        assert error.status == status


@pytest.mark.parametrize(
    "body", ["", "<html>", "null", "[]", "{}", '{"data": null}', '{"data": []}', '{"data": {"id": 5}}', '{"da']
)
def test_an_unusable_success_is_retryable_for_a_read_and_unknown_for_an_order(
    mocked: responses.RequestsMock, dnsimple: DNSimple, body: str
) -> None:
    for call, branch, status in ((get, RetryableError, 200), (post, OutcomeUnknownError, 202)):
        answer(mocked, call, status=status, body=body)
        assert isinstance(failure(dnsimple, call), branch)


@pytest.mark.parametrize("value", ["5", True, 5.0, -5, 0, None, 2**63])
def test_an_invalid_id_is_rejected(mocked: responses.RequestsMock, dnsimple: DNSimple, value: Any) -> None:
    answer(mocked, get, json={"data": CERTIFICATE | {"id": value}})
    assert isinstance(failure(dnsimple, get), errors.ServerFaultError)


def test_an_unexpected_success_status_is_an_error(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    answer(mocked, get, status=202, json={"data": CERTIFICATE})
    assert isinstance(failure(dnsimple, get), RetryableError)
    answer(mocked, post, status=200, json={"data": CERTIFICATE})
    assert isinstance(failure(dnsimple, post), OutcomeUnknownError)


@pytest.mark.parametrize("body", ["", "null", "[1]", "<html>", '{"data": {}}', '{"message": 5}'])
def test_a_refusal_without_a_message_is_still_that_refusal(
    mocked: responses.RequestsMock, dnsimple: DNSimple, body: str
) -> None:
    answer(mocked, get, status=404, body=body)
    assert isinstance(failure(dnsimple, get), errors.NotFoundError)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, {}),
        ({"errors": {}}, {}),
        ({"errors": {"name": ["a", "b"]}}, {"name": ["a", "b"]}),
        ({"errors": {"name": "a"}}, {"name": ["a"]}),
        ({"errors": {"base": [["a", "b"]]}}, {"base": ["['a', 'b']"]}),
        ({"errors": {"name": None}}, {}),
        ({"errors": ["a"]}, {}),
    ],
)
def test_field_errors_of_every_shape_are_read(
    mocked: responses.RequestsMock, dnsimple: DNSimple, document: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    answer(mocked, get, status=400, json={"message": "Validation failed"} | document)
    error = failure(dnsimple, get)
    assert isinstance(error, errors.RefusedError)
    assert error.field_errors == expected


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("Let's Encrypt feature is not enabled for the account X", "letsencrypt"),
        ("The certificate requires the custom-name feature that is not available on the plan", "custom-name"),
        ("The certificate requires the SAN feature that is not available on the plan", "SAN"),
        ("The certificate requires the wildcard feature that is not available", "wildcard"),
        ("Something else", None),
    ],
)
def test_the_feature_missing_in_the_plan_is_named(
    mocked: responses.RequestsMock, dnsimple: DNSimple, text: str, feature: str | None
) -> None:
    answer(mocked, get, status=412, json={"message": text})
    error = failure(dnsimple, get)
    assert isinstance(error, errors.PlanLimitError)
    assert error.feature == feature


def in_a_minute() -> str:
    return http_date(60)


def http_date(seconds: float) -> str:
    """That many seconds from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("call", [get, post])
@pytest.mark.parametrize(
    ("headers", "least", "most", "account_wide"),
    [
        ({"Retry-After": "120"}, 120, 120, True),
        ({"Retry-After": in_a_minute}, 30, 60, True),
        ({"Date": lambda: http_date(-300), "Retry-After": lambda: http_date(-240)}, 59, 61, True),
        ({"Retry-After": "yesterday"}, None, None, True),
        (
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": lambda: int(datetime.now(UTC).timestamp()) + 60},
            30,
            60,
            True,
        ),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, 0, 0, True),
        ({"X-RateLimit-Remaining": "17", "X-RateLimit-Reset": "99999999999"}, None, None, False),
        ({"X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "soon"}, None, None, True),
        ({}, None, None, True),
    ],
)
def test_a_rate_limit_has_the_time_to_wait(
    mocked: responses.RequestsMock,
    dnsimple: DNSimple,
    call: Any,
    headers: dict[str, Any],
    least: float | None,
    most: float | None,
    account_wide: bool,
) -> None:
    sent = {name: str(value()) if callable(value) else value for name, value in headers.items()}
    answer(mocked, call, status=429, json={"message": "quota exceeded"}, headers=sent)
    error = failure(dnsimple, call)
    assert isinstance(error, errors.RateLimitedError)
    assert error.account_wide == account_wide
    if least is None or most is None:
        assert error.retry_after is None
    else:
        assert error.retry_after is not None
        assert least <= error.retry_after <= most


def test_an_endpoints_own_limit_is_not_the_accounts(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    answer(mocked, get, status=429, json={"message": "endpoint checkDomain quota exceeded"})
    error = failure(dnsimple, get)
    assert isinstance(error, errors.RateLimitedError)
    assert not error.account_wide


@pytest.mark.parametrize("text", ["Certificate not issued", "Private key not present"])
def test_not_issued_yet_is_retryable(mocked: responses.RequestsMock, dnsimple: DNSimple, text: str) -> None:
    answer(mocked, get, status=428, json={"message": text})
    assert isinstance(failure(dnsimple, get), errors.NotIssuedYetError)


# Values


def test_a_certificate_is_read_with_its_nulls_and_unknown_fields(
    mocked: responses.RequestsMock, dnsimple: DNSimple
) -> None:
    answer(mocked, get, json={"data": CERTIFICATE | {"new_field": {"a": 1}, "state": "hibernating"}})
    certificate = dnsimple.certificate("example.com", 101967)
    assert (certificate.id, certificate.domain_id, certificate.state) == (101967, 5, "hibernating")
    assert certificate.created_at == datetime(2026, 11, 23, 18, 54, 17, tzinfo=UTC)
    assert certificate.expires_at is None


def test_an_expiry_may_be_a_date(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    fields = {name: value for name, value in CERTIFICATE.items() if name not in {"contact_id", "expires_at"}}
    answer(mocked, get, json={"data": fields | {"expires_on": "2027-02-21"}})
    assert dnsimple.certificate("example.com", 101967).expires_at == datetime(2027, 2, 21, tzinfo=UTC)


def test_a_private_key_does_not_print(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    mocked.add("GET", f"{CERTIFICATES}/1/private_key", json={"data": {"private_key": "KEY-1"}})
    key = dnsimple.private_key("example.com", 1)
    assert key.reveal() == "KEY-1"
    assert "KEY-1" not in f"{key!r}{key!s}"


def test_a_webhooks_url_does_not_print(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    hooks = [{"id": 1, "url": "https://x.example/secret", "suppressed_at": "2026-11-23T18:54:17Z"}]
    mocked.add("GET", f"{BASE}/1010/webhooks", json={"data": hooks})
    (hook,) = dnsimple.webhooks()
    assert hook.suppressed_at is not None
    assert "secret" not in repr(hook)


def test_a_list_is_read_page_by_page_as_it_is_needed(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    for page in (1, 2):
        mocked.add(
            "GET",
            CERTIFICATES,
            json={
                "data": [CERTIFICATE | {"id": 10 - page}],
                "pagination": {"current_page": page, "per_page": 100, "total_entries": 2, "total_pages": 2},
            },
            match=[responses.matchers.query_param_matcher({"page": str(page), "per_page": "100", "sort": "id:desc"})],
        )
    certificates = dnsimple.certificates("example.com")
    assert next(certificates).id == 9
    assert len(mocked.calls) == 1
    assert [certificate.id for certificate in certificates] == [8]


def test_deleting_a_missing_webhook_succeeds(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    for status in (204, 404):
        mocked.add("DELETE", f"{BASE}/1010/webhooks/1", status=status)
        dnsimple.delete_webhook(1)


# What is sent


def sent(mocked: responses.RequestsMock) -> Any:
    return json.loads(mocked.calls[-1].request.body or "null")


def test_an_empty_name_and_false_are_sent_as_they_are(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    bought = {"id": 1, "certificate_id": 2, "state": "new", "auto_renew": False}
    mocked.add("POST", f"{CERTIFICATES}/letsencrypt", status=201, json={"data": bought})
    purchase = dnsimple.purchase(
        "example.com", name="", alternate_names=[], auto_renew=False, signature_algorithm="ECDSA"
    )
    assert sent(mocked) == {"name": "", "auto_renew": False, "signature_algorithm": "ECDSA"}
    assert purchase.certificate_id == 2
    assert mocked.calls[-1].request.headers["Content-Type"] == "application/json"
    assert mocked.calls[-1].request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert mocked.calls[-1].request.headers["User-Agent"].startswith("certcourier dnsimple-python/8.")


def test_a_renewal_is_ordered_and_issued(mocked: responses.RequestsMock, dnsimple: DNSimple) -> None:
    renewal = {"id": 65082, "old_certificate_id": 1, "new_certificate_id": 2, "state": "new", "auto_renew": True}
    mocked.add("POST", f"{CERTIFICATES}/letsencrypt/1/renewals", status=201, json={"data": renewal})
    mocked.add("POST", f"{CERTIFICATES}/letsencrypt/1/renewals/65082/issue", status=202, json={"data": CERTIFICATE})
    ordered = dnsimple.order_renewal("example.com", 1, auto_renew=True, signature_algorithm="RSA")
    assert sent(mocked) == {"auto_renew": True, "signature_algorithm": "RSA"}
    assert dnsimple.issue_renewal("example.com", 1, ordered.id).id == 101967


NOT_DOMAINS = ["../../999/secret?", "%2e%2e", "a.test?x=1#", "a/b.test", "A.test", "a", "", "a..test", "-a.test"]


@pytest.mark.parametrize("domain", [*NOT_DOMAINS, True, -1, 2**63, None, 1.5])
def test_what_is_not_a_domain_never_enters_a_path(dnsimple: DNSimple, domain: Any) -> None:
    with pytest.raises(errors.InvalidReferenceError):
        dnsimple.download(domain, 1)


@pytest.mark.parametrize("number", [0, -1, True, "1", "../2", 1.0, None, 2**63])
def test_what_is_not_an_id_never_enters_a_path(dnsimple: DNSimple, number: Any) -> None:
    with pytest.raises(errors.InvalidReferenceError):
        dnsimple.certificate("example.com", number)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "é", "a\x00"])
def test_a_malformed_token_is_rejected_without_being_quoted(token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        DNSimple(account_id=1, token=token)
    assert token.strip() == "" or token not in str(caught.value)


class RecordingBudget(UnlimitedBudget):
    """Records the outcomes of calls."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Purpose, Answer, CertcourierError | None]] = []

    def update(self, purpose: Purpose, answer: Answer, error: CertcourierError | None) -> None:
        self.outcomes.append((purpose, answer, error))


def test_the_budget_learns_only_status_and_quota(mocked: responses.RequestsMock) -> None:
    budget = RecordingBudget()
    dnsimple = DNSimple(account_id=1010, token=TOKEN, budget=budget)
    limits = {
        "X-RateLimit-Limit": "4800",
        "X-RateLimit-Remaining": "4799",
        "X-RateLimit-Reset": "1795471533",
        "Date": "Mon, 23 Nov 2026 21:05:33 GMT",
    }
    answer(mocked, get, json={"data": CERTIFICATE}, headers=limits)
    get(dnsimple)
    answer(mocked, get, status=404, headers=limits | {"X-RateLimit-Limit": "many"})
    failure(dnsimple.with_purpose(Purpose.UNVERIFIED_EVENT), get)
    (first_purpose, first, nothing), (second_purpose, second, error) = budget.outcomes
    path = "/{account}/domains/{domain}/certificates/{certificate}"
    assert (first_purpose, first.method, first.path, first.status, nothing) == ("background", "GET", path, 200, None)
    assert first.rate_limit == RateLimit(4800, 4799, 3600.0)
    assert (second_purpose, second.status, second.rate_limit) == ("unverified_event", 404, None)
    assert isinstance(error, errors.NotFoundError)
