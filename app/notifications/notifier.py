"""Messages to people, by any service that Apprise knows.

Apprise and its services take some 30 MiB, for a message now and then: they are loaded by a process that lives for one
message (`child_process`). That also bounds the time, and keeps what Apprise logs, which can hold the addresses,
 out of our logs.
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
    """The service did not take the message now."""


class NotificationRefusedError(PermanentError):
    """There is no such service."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where messages go. Its URL holds secrets: `id` stands for it in jobs, `name` in what people read."""

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
        address = next((one for one in self.addresses if one.id == address_id), None)
        if address is None:
            raise NotificationRefusedError("this address is no longer among NOTIFY_URLS or in NOTIFY_URLS_FILE")
        message = json.dumps({"url": address.url, "title": title, "body": body, "good": good})
        try:
            done = subprocess.run(  # noqa: S603, our own program
                [sys.executable, "-I", str(_CHILD)],
                input=message,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # can hold the address
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
                f"notification address {address.name} is none that Apprise knows: see its documentation, then "
                "`flask alerts test`"
            )
        if done.returncode != 0:
            raise NotificationFailedError(
                f"notification address {address.name} did not take the message; what it said is not shown, for it can "
                "hold the address"
            )


# What Apprise needs to reach a service; none of our own secrets.
_ENVIRONMENT = (
    "PATH", "HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def build_notifier(settings: Settings) -> Notifier:
    """The addresses of NOTIFY_URLS and of NOTIFY_URLS_FILE, whose readers may be nobody but its owner.

    Raises `PermanentError` that names the setting and the line, never the address.
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
                    raise PermanentError(f"NOTIFY_URLS_FILE: line {number} is no Apprise URL, such as mailtos://...")
                urls.append(line)
    return Notifier(urls)
