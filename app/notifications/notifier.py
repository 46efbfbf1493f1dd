"""Notifications by any service that Apprise supports.

Apprise takes some 30 MiB for an occasional message, so a child process loads it for each message (`child_process`).
That also limits the time, and keeps Apprise's log messages, which can contain addresses, out of the log.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from app.crypto.secret_files import read_secret
from app.errors import PermanentError, RetryableError
from config import Settings

_CHILD = Path(__file__).with_name("child_process.py")
_SECONDS = 60.0


class NotificationFailedError(RetryableError):
    """The service did not accept the message now."""


class NotificationRefusedError(PermanentError):
    """The address is not configured, or Apprise does not know its service."""


@dataclass(frozen=True, slots=True)
class Address:
    """A recipient. Its URL contains secrets: jobs refer to it by `id`, messages by `name`."""

    id: str
    name: str
    url: str = field(repr=False)


class Notifier:
    """Sends messages to the addresses of these Apprise URLs."""

    def __init__(self, urls: Iterable[str] = (), *, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self.addresses = tuple(
            Address(hashlib.sha256(url.encode()).hexdigest()[:16], f"{number} ({url.partition('://')[0]})", url)
            for number, url in enumerate(dict.fromkeys(urls), start=1)
        )

    def send(self, address_id: str, title: str, body: str, *, good: bool) -> None:
        """Send one message. `good`: a recovery. Raises `NotificationFailedError` or `NotificationRefusedError`."""
        address = next((each for each in self.addresses if each.id == address_id), None)
        if address is None:
            raise NotificationRefusedError("this address is no longer in NOTIFY_URLS or NOTIFY_URLS_FILE")
        message = json.dumps({"url": address.url, "title": title, "body": body, "good": good})
        try:
            done = subprocess.run(  # noqa: S603, a program of this package
                [sys.executable, "-I", str(_CHILD)],
                input=message,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # can contain the address
                timeout=self._seconds,
                check=False,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        except subprocess.TimeoutExpired:
            raise NotificationFailedError(
                f"notification address {address.name} did not answer within {self._seconds:g} seconds"
            ) from None
        if done.returncode == 2:
            raise NotificationRefusedError(
                f"notification address {address.name} is not supported by Apprise: see its documentation, then run "
                "`certcourier alerts test`"
            )
        if done.returncode != 0:
            raise NotificationFailedError(
                f"notification address {address.name} did not accept the message (its response is not shown: it "
                "can contain the address)"
            )


# What Apprise needs to reach a service; none of the worker's secrets.
_ENVIRONMENT = (
    "PATH", "HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def build_notifier(settings: Settings) -> Notifier:
    """The addresses in NOTIFY_URLS and NOTIFY_URLS_FILE, which only its owner may read.

    Raises `PermanentError`, which names the setting and the line, never the address.
    """
    urls = settings.notify_urls.get_secret_value().split() if settings.notify_urls else []
    file = settings.notify_urls_file
    if file is not None:
        try:
            lines = [line.strip() for line in read_secret(file).splitlines()]
        except PermanentError as error:
            raise PermanentError(f"NOTIFY_URLS_FILE: {error}") from None
        for number, line in enumerate(lines, start=1):
            if line and not line.startswith("#"):
                if "://" not in line or " " in line:
                    raise PermanentError(f"NOTIFY_URLS_FILE: line {number} is not an Apprise URL such as mailtos://...")
                urls.append(line)
    return Notifier(urls)
