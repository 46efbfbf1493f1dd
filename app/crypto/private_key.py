"""A certificate's private key in clear."""

from __future__ import annotations

from typing import Never


class PrivateKey:
    """A private key in clear, as PEM: PKCS#1, SEC 1 or PKCS#8. Its `repr` hides it and it cannot be pickled."""

    __slots__ = ("_pem",)

    def __init__(self, pem: str) -> None:
        self._pem = pem

    def reveal(self) -> str:
        """The PEM text. Never log it."""
        return self._pem

    def __repr__(self) -> str:
        return "<PrivateKey redacted>"

    def __reduce__(self) -> Never:
        raise TypeError("a private key cannot be pickled")
