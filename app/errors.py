"""One tree for everything that can go wrong with a certificate.

    CertcourierError
    ├── RetryableError     nothing happened; trying the same again later can succeed
    ├── PermanentError     trying the same again cannot succeed; somebody has to change something
    └── OutcomeUnknownError  it may or may not have happened; look before trying again

The adapters refine these (`app.dnsimple.errors`, `app.destinations`). The job engine decides by the branch, with one
exception: what the account is at fault for (token, bill, scope) is permanent to whoever asks, but a job waits until it
is mended.
"""


class CertcourierError(Exception):
    """The base of the tree. `str(error)` is safe to log and to show: it never holds a secret."""


class RetryableError(CertcourierError):
    """Nothing happened. `retry_after` is the number of seconds the other side asked us to wait, if it did."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(CertcourierError):
    """Repeating cannot help: the message says what has to be changed."""


class OutcomeUnknownError(CertcourierError):
    """The request may have taken effect although no usable answer came back."""
