"""What can go wrong between us and DNSimple (contract, sections 1.3, 4 and 5).

    DNSimpleError (CertcourierError)
    ├── RetryableError: nothing happened
    │   ├── UnreachableError         it never left, or the answer to a call that only reads or deletes was lost
    │   ├── ServerFaultError         5xx or an unusable body, on a call that only reads or deletes
    │   ├── UnexpectedAnswerError    neither success nor failure (a redirect), on a call that only reads or deletes
    │   ├── RateLimitedError         429
    │   └── NotIssuedYetError        428
    ├── PermanentError: somebody has to change something
    │   ├── AuthenticationError      401
    │   ├── PaymentRequiredError     402
    │   ├── ForbiddenError           403
    │   ├── NotFoundError            404, also for what the token may not see
    │   ├── PlanLimitError           412
    │   ├── RefusedError             400 and every other 4xx
    │   └── InvalidReferenceError    refused by us, before any call
    └── OutcomeUnknownError: look before trying again
        └── LostAnswerError          an order (POST) that left, and came back as a timeout, reset, 3xx, 5xx or garbage

No text or attribute of these holds the token, a webhook's URL or a private key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from app.errors import CertcourierError, OutcomeUnknownError, PermanentError, RetryableError

_FEATURE = re.compile(r"(let's encrypt|custom-name|SAN|wildcard) feature", re.IGNORECASE)
_FEATURES = {"let's encrypt": "letsencrypt", "custom-name": "custom-name", "san": "SAN", "wildcard": "wildcard"}


class DNSimpleError(CertcourierError):
    """`message` is DNSimple's own text where it sent one, else ours; `str()` adds the call, status and request ID.

    `status` is None if there was no HTTP answer. `request_id` is DNSimple's `x-request-id`, for its support.
    """

    def __init__(
        self, message: str, *, status: int | None = None, request_id: str | None = None, call: str | None = None
    ) -> None:
        known = (call, f"status {status}" if status else None, f"request {request_id}" if request_id else None)
        details = ", ".join(detail for detail in known if detail)
        super().__init__(f"{message} ({details})" if details else message)
        self.message = message
        self.status = status
        self.request_id = request_id


class _RetryableDNSimpleError(DNSimpleError, RetryableError):
    """`retry_after` is the number of seconds that DNSimple asked us to wait, if it did."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        call: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, call=call)
        self.retry_after = retry_after


class UnreachableError(_RetryableDNSimpleError):
    """The request never left us, or it only reads or deletes and its answer was lost."""


class ServerFaultError(_RetryableDNSimpleError):
    """DNSimple answered 5xx or something unusable to a call that only reads or deletes."""


class UnexpectedAnswerError(_RetryableDNSimpleError):
    """A redirect or another status that the API does not use, to a call that only reads or deletes.

    Such an answer comes from something in between (a maintenance page, a proxy, a wrong base URL). Retryable, because
    the order is not at fault: it goes away, or the operator mends the address, and the work goes on.
    """


class RateLimitedError(_RetryableDNSimpleError):
    """429 (contract, section 4). `retry_after`: Retry-After, else until the reset if nothing remains, else None.

    `account_wide` tells the account's whole quota from the limit of a single endpoint, which leaves the others usable.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = 429,
        request_id: str | None = None,
        call: str | None = None,
        retry_after: float | None = None,
        account_wide: bool = True,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, call=call, retry_after=retry_after)
        self.account_wide = account_wide


class NotIssuedYetError(_RetryableDNSimpleError):
    """428: the certificate or its key is not there yet; can still come for some minutes after `issued`."""


class AuthenticationError(DNSimpleError, PermanentError):
    """401: the token is wrong or revoked. Asking again with it only burns quota."""


class PaymentRequiredError(DNSimpleError, PermanentError):
    """402: the account has no subscription or unpaid invoices."""


class ForbiddenError(DNSimpleError, PermanentError):
    """403: the token's scope does not allow this; the message names the scope needed."""


class NotFoundError(DNSimpleError, PermanentError):
    """404: it does not exist, or the token may not see it."""


class PlanLimitError(DNSimpleError, PermanentError):
    """412: the plan lacks a feature: `letsencrypt`, `custom-name`, `SAN`, `wildcard`, or None if unnamed."""

    def __init__(
        self, message: str, *, status: int | None = 412, request_id: str | None = None, call: str | None = None
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, call=call)
        found = _FEATURE.search(message)
        self.feature = _FEATURES[found[1].lower()] if found else None


class RefusedError(DNSimpleError, PermanentError):
    """400 or another 4xx. `field_errors` are DNSimple's texts by field; `base` is the whole object."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = 400,
        request_id: str | None = None,
        call: str | None = None,
        field_errors: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, call=call)
        self.field_errors = {field: list(texts) for field, texts in (field_errors or {}).items()}

    def __str__(self) -> str:
        texts = [f"{field}: {', '.join(said)}" for field, said in self.field_errors.items()]
        return "; ".join([super().__str__(), *texts])


class InvalidReferenceError(DNSimpleError, PermanentError):
    """A domain or an ID that may not enter a path, since the client does not quote (contract, section 5, trap 12)."""


class LostAnswerError(DNSimpleError, OutcomeUnknownError):
    """An order (POST) left us and no usable answer came back: it may have taken effect."""
