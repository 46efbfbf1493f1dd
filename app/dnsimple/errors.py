"""Errors of calls to DNSimple (contract, sections 1.3, 4 and 5).

    DNSimpleError (CertcourierError)
    ├── RetryableError: nothing happened
    │   ├── UnreachableError           not sent, or the response to a call that only reads or deletes was lost
    │   ├── ServerFaultError           5xx or an unusable body, on a call that only reads or deletes
    │   ├── RateLimitedError           429
    │   └── NotIssuedYetError          428
    ├── PermanentError: something has to be changed
    │   ├── AccountBlockedError
    │   │   ├── AuthenticationError    401
    │   │   ├── PaymentRequiredError   402
    │   │   └── ForbiddenError         403
    │   ├── NotFoundError              404, also for what the token may not see
    │   ├── PlanLimitError             412
    │   ├── RefusedError               400 and every other 4xx
    │   └── InvalidReferenceError      refused before any call
    └── OutcomeUnknownError: check before retrying
        └── LostAnswerError            a POST that was sent, and ended in a timeout, reset, 3xx, 5xx or unusable body

No text or attribute of an error holds the token, a webhook's URL or a private key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from app.errors import AccountBlockedError, CertcourierError, OutcomeUnknownError, PermanentError, RetryableError

_FEATURE = re.compile(r"(let's encrypt|custom-name|SAN|wildcard) feature", re.IGNORECASE)
_FEATURES = {"let's encrypt": "letsencrypt", "custom-name": "custom-name", "san": "SAN", "wildcard": "wildcard"}


class DNSimpleError(CertcourierError):
    """`message` is DNSimple's text if it sent one, else ours; `str()` adds the call, status and request ID.

    `status` is None if there was no HTTP response. `request_id` is DNSimple's `x-request-id`, for its support.
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
    """`retry_after` is the delay in seconds that DNSimple asked for, if any."""

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
    """The request was not sent, or it only reads or deletes and its response was lost."""


class ServerFaultError(_RetryableDNSimpleError):
    """DNSimple sent a 5xx or an unusable response to a call that only reads or deletes."""


class RateLimitedError(_RetryableDNSimpleError):
    """429 (contract, section 4). `retry_after`: Retry-After, else until the reset if nothing remains, else None.

    `account_wide` distinguishes the account's quota from the limit of one endpoint, which does not affect the others.
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
    """428: the certificate or its key is not available yet; possible for some minutes after `issued`."""


class AuthenticationError(DNSimpleError, AccountBlockedError):
    """401: the token is invalid or revoked. More calls with it only consume quota."""

    remedy = "set a valid DNSIMPLE_API_TOKEN and restart"
    affects_all_calls = True


class PaymentRequiredError(DNSimpleError, AccountBlockedError):
    """402: the account has no subscription or has unpaid invoices."""

    remedy = "pay the DNSimple account's open invoices"


class ForbiddenError(DNSimpleError, AccountBlockedError):
    """403: the token lacks a scope, which the message names."""

    remedy = "grant the DNSimple token the scope named in the message"


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
        texts = [f"{field}: {', '.join(messages)}" for field, messages in self.field_errors.items()]
        return "; ".join([super().__str__(), *texts])


class InvalidReferenceError(DNSimpleError, PermanentError):
    """A domain or an ID that may not enter a path, since the client does not quote (contract, section 5, trap 12)."""


class LostAnswerError(DNSimpleError, OutcomeUnknownError):
    """A POST was sent and no usable response was received: it may have taken effect."""
