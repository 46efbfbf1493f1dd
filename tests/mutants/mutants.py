"""The planted bugs: for each invariant of the design, code that breaks it and the tests that must then fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("app", "simulator", "launcher", "migrations", "tests")
_INTEGRATION = "tests/integration"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`text` in `file` becomes `replacement`; then at least one of `tests`, arguments of pytest, must fail."""

    name: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "an event is acknowledged before it is committed",
        "app/events/ingestion.py",
        "        outcome = self._commits.submit(event)\n",
        '        outcome: Outcome = "queued"\n'
        '        __import__("threading").Timer(0.5, self._commits.submit, (event,)).start()\n',
        (f"{_INTEGRATION}/events/test_ingestion.py",),
    ),
    Mutant(
        "the same event causes a second job",
        "app/events/ingestion.py",
        'if event.request_identifier in added else "duplicate"',
        'if event.request_identifier else "duplicate"',
        (f"{_INTEGRATION}/events/test_ingestion.py",),
    ),
    Mutant(
        "a purchase is not recorded before it is sent",
        "app/orders/issuance.py",
        "        current.state = OrderState.PURCHASING\n",
        "",
        (f"{_INTEGRATION}/orders/test_issuance.py",),
    ),
    Mutant(
        "a purchase whose answer was lost is repeated blindly",
        "app/orders/issuance.py",
        "        if found is not None:\n",
        "        if False:\n",
        (f"{_INTEGRATION}/orders/test_issuance.py",),
    ),
    Mutant(
        "two workers finish the same job",
        "app/jobs/queue.py",
        "where(Job.id == claim.id, Job.token == claim.token)",
        "where(Job.id == claim.id)",
        (f"{_INTEGRATION}/jobs/test_queue.py",),
    ),
    Mutant(
        "a job's effects are committed without its completion",
        "app/jobs/queue.py",
        "            self._fence(session, claim, **_finished(JobState.DONE))\n",
        "",
        (f"{_INTEGRATION}/jobs/test_queue.py",),
    ),
    Mutant(
        "the jobs of a dead worker are not taken over",
        "app/jobs/queue.py",
        "                job.lease_expires_at = db_now(self.lease_seconds)\n",
        "                job.lease_expires_at = db_now(86400)\n",
        (f"{_INTEGRATION}/jobs/test_queue.py",),
    ),
    Mutant(
        "an older certificate replaces a newer one",
        "app/destinations/files/destination.py",
        "if held is not None and held > bundle.version:",
        "if False:",
        ("tests/unit/destinations/files/test_destination.py",),
    ),
    Mutant(
        "a superseded certificate is delivered",
        "app/deliveries/delivery.py",
        "        if newest_successor(session, certificate) is not None:\n"
        '            return DeliveryResult("superseded", "a newer certificate of the lineage exists")\n',
        "",
        (f"{_INTEGRATION}/certificates/test_retrieval.py", f"{_INTEGRATION}/deliveries"),
    ),
    Mutant(
        "a key that does not match its certificate is accepted",
        "app/certificates/verification.py",
        "if _public_bytes(key.public_key()) != _public_bytes(leaf.public_key()):",
        "if False:",
        ("tests/unit/certificates/test_verification.py",),
    ),
    Mutant(
        "a certificate that does not cover the names ordered is accepted",
        "app/certificates/verification.py",
        "    if missing:\n",
        "    if False:\n",
        ("tests/unit/certificates/test_verification.py",),
    ),
    Mutant(
        "a private key can be decrypted in another certificate's row",
        "app/crypto/encryption.py",
        "header + owner.encode()",
        "header",
        ("tests/unit/crypto/test_encryption.py", f"{_INTEGRATION}/operations/test_key_rotation.py"),
    ),
    Mutant(
        "the quota is exceeded",
        "app/dnsimple/budget.py",
        "if row.remaining < calls:",
        "if False:",
        (f"{_INTEGRATION}/dnsimple/test_budget.py",),
    ),
    Mutant(
        "a token reads about the domains of others",
        "app/auth/scopes.py",
        "    if patterns is None:\n        return []\n",
        "    return []\n",
        (f"{_INTEGRATION}/auth/test_tokens.py",),
    ),
)


def copy_code(folder: Path) -> None:
    """Copy what the tests import into the folder."""
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("*.py", "pyproject.toml"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, folder)


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests pass with this bug in the copy of the code, which is restored afterwards."""
    file = folder / mutant.file
    clean = file.read_text()
    assert mutant.text in clean, f"{mutant.name}: {mutant.file} does not have the text to replace"
    file.write_text(clean.replace(mutant.text, mutant.replacement))
    try:
        return run_tests(mutant.tests, folder).returncode == 0
    finally:
        file.write_text(clean)


def run_tests(tests: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run these tests on SQLite with the code in the folder. Raises AssertionError if they cannot be run."""
    # Without bytecode: a bug and its correction within the same second may have files of the same size.
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-m", "not postgresql", "--timeout", "60", *tests]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert run.returncode in {0, 1}, run.stdout
    return run
