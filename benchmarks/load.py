"""Load from wrk, and the web servers that Certcourier's is compared with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import requests

from tests.support.stack import Stack, wait_until

_SCRIPT = Path(__file__).with_name("requests.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk. Latencies in milliseconds."""

    per_second: float
    p50: float
    p99: float
    answered: int
    failed: int


def load(url: str, connections: int, seconds: float, *about: int, method: str = "POST", **headers: str) -> Load:
    """Send as many requests as `connections` can carry. `about`: the certificate and domain that all events name."""
    if shutil.which("wrk") is None:
        sys.exit("the benchmarks need wrk: install Debian's package `wrk`")
    command = ["wrk", "-t", str(min(2, connections)), "-c", str(connections), "-d", f"{seconds:g}s", "--timeout", "30s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    script = _SCRIPT if method == "POST" else _SCRIPT.with_name("get.lua")
    command += ["-s", str(script), url, "--", uuid.uuid4().hex, *map(str, about)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    return Load(
        result["requests"] / result["microseconds"] * 1e6,
        result["p50"],
        result["p99"],
        result["requests"],
        result["failed"],
    )


class Servers(Stack):
    """Certcourier's web server, and others under the same gunicorn with the same settings."""

    def start_other(self, name: str, application: str) -> str:
        """Its URL. `application` is `module:variable`."""
        self.start_web(name, application=application)
        self.wait_for(name)
        return self.url_of(name)

    def wait_for(self, name: str) -> None:
        """Wait until the server responds."""

        def answers() -> bool:
            try:
                return requests.get(self.url_of(name) + "/healthz", timeout=5).ok
            except requests.ConnectionError:
                return False

        wait_until(answers, f"{name} answers")


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"
