"""Bundles with real certificates, and a process that delivers one: `python -m tests.support.fakes.deliveries`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from app.crypto.private_key import PrivateKey
from app.destinations.base import Bundle, Destination, Version
from app.destinations.registry import load_destinations
from app.errors import CertcourierError
from tests.support.x509 import Authority

ROOT = Path(__file__).resolve().parents[3]
FIRST = datetime.now(UTC).replace(microsecond=0) - timedelta(days=40)


@cache
def _authority() -> Authority:
    return Authority()


def bundle(number: int, slot: str = "www.example.com") -> Bundle:
    """Number 2 is newer than number 1. The same within a run."""
    return _bundle(number, slot)


@cache
def _bundle(number: int, slot: str) -> Bundle:
    name = slot.replace("_wildcard", "*")
    start = FIRST + timedelta(days=number)
    issued = _authority().issue(name, start=start)
    leaf = x509.load_pem_x509_certificate(issued.leaf.encode())
    return Bundle(
        slot=slot,
        version=Version(start, 1000 + number),
        names=(name,),
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        leaf_pem=issued.leaf,
        chain_pem="".join(issued.chain),
        key=PrivateKey(issued.key),
    )


def write_destination(folder: Path, **fields: Any) -> Path:
    """A destinations file with one destination."""
    file = folder / "destinations.toml"
    flat = {name: value for name, value in fields.items() if value is not None and not isinstance(value, dict)}
    for name, table in fields.items():
        if isinstance(table, dict):
            flat |= {f"{name}.{key}": value for key, value in table.items()}
    lines = [f"{name} = {json.dumps(value)}" for name, value in flat.items()]
    file.write_text("\n".join(["[[destination]]", 'name = "far"', *lines, ""]))
    return file


def open_destination(file: Path) -> Destination:
    """Load the destination as another process would."""
    return load_destinations(file, data_dir=file.parent)["far"]


def start_delivery(file: Path, bundle: Bundle) -> subprocess.Popen[str]:
    """Deliver in a process that may be killed."""
    described = {
        "slot": bundle.slot,
        "not_before": bundle.version.not_before.isoformat(),
        "certificate_id": bundle.version.certificate_id,
        "names": bundle.names,
        "fingerprint": bundle.fingerprint,
        "leaf_pem": bundle.leaf_pem,
        "chain_pem": bundle.chain_pem,
        "key": bundle.key.reveal(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fakes.deliveries", str(file)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(described))
    process.stdin.close()
    return process


def end_delivery(process: subprocess.Popen[str], *, kill: bool = False) -> str:
    """Its output, once it has exited or was killed."""
    if kill:
        process.kill()
    assert process.stdout is not None
    output = process.stdout.read()
    process.stdout.close()
    process.wait(60)
    return output.strip()


def race(deliveries: Mapping[int, tuple[Destination, Bundle]]) -> dict[int, str]:
    """Run all these deliveries at the same instant. Returns for each its outcome, or the name of its error's class."""
    barrier = threading.Barrier(len(deliveries), timeout=60)
    outcomes: dict[int, str] = {}

    def deliver(number: int, destination: Destination, one: Bundle) -> None:
        barrier.wait()
        try:
            outcomes[number] = destination.deliver(one).outcome
        except CertcourierError as error:
            outcomes[number] = type(error).__name__

    threads = [
        threading.Thread(target=deliver, args=(number, *what), daemon=True) for number, what in deliveries.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def main() -> None:
    described = json.loads(sys.stdin.read())
    version = Version(datetime.fromisoformat(described.pop("not_before")), described.pop("certificate_id"))
    key = PrivateKey(described.pop("key"))
    names = tuple(described.pop("names"))
    result = open_destination(Path(sys.argv[1])).deliver(Bundle(version=version, key=key, names=names, **described))
    print(result.outcome)


if __name__ == "__main__":
    main()
