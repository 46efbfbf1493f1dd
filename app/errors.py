"""The tree of errors; the job engine decides by the branch.

    CertcourierError
    ├── RetryableError           nothing happened; a later attempt can succeed
    ├── PermanentError           a retry cannot succeed; something has to be changed
    │   └── AccountBlockedError  the account or its token has to be changed; jobs wait until it is
    └── OutcomeUnknownError      it may or may not have taken effect; check before retrying

The adapters refine these (`app.dnsimple.errors`, `app.destinations`).
"""

from __future__ import annotations

from typing import ClassVar


class CertcourierError(Exception):
    """The base of the tree. `str(error)` is safe to log and to show: it never holds a secret."""


class RetryableError(CertcourierError):
    """Nothing happened. `retry_after` is the delay in seconds that the remote side asked for, if any."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(CertcourierError):
    """A retry cannot succeed; the message names what has to be changed."""


class AccountBlockedError(PermanentError):
    """The account or its token does not permit the call; `remedy` is what the operator has to do.

    `affects_all_calls` is true if no call can succeed. Otherwise this request was refused; others may be permitted.
    """

    remedy: ClassVar[str]
    affects_all_calls: ClassVar[bool] = False


class OutcomeUnknownError(CertcourierError):
    """The request may have taken effect although no usable response was received."""
