"""The results of checks, and how checks are run: each on its own, within a time limit."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from app.db.errors import explain_failure
from app.dnsimple.adapter import Answer, DNSimple
from app.dnsimple.errors import AuthenticationError, UnreachableError
from app.errors import CertcourierError, RetryableError
from app.services import Services

Level = Literal["ok", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: what was found and what to do. Neither text holds a secret.

    `alert` is the kind of the alert that it reports, if it reports one.
    """

    level: Level
    meaning: str
    remedy: str = ""
    check: str = ""
    alert: str = ""


@dataclass(slots=True)
class CheckContext:
    """What the checks work on. `resolver` is the name server to query, address and port; None: the system's."""

    services: Services
    domain: str | None = None
    resolver: tuple[str, int] | None = None
    answers: list[Answer] = field(default_factory=list)

    @property
    def dnsimple(self) -> DNSimple:
        """The account; its answers are kept for their dates, and a rejected token does not pause other calls."""
        return self.services.dnsimple.read_only().with_observer(self.answers.append)


type CheckFunction = Callable[[CheckContext], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check. `passes_if` is its description in the documentation."""

    run: CheckFunction
    passes_if: str


def ok(meaning: str) -> Finding:
    """It works."""
    return Finding("ok", meaning)


def warning(meaning: str, remedy: str) -> Finding:
    """It works, but needs attention."""
    return Finding("warning", meaning, remedy)


def critical(meaning: str, remedy: str) -> Finding:
    """It does not work, or will soon stop working."""
    return Finding("critical", meaning, remedy)


def run_checks(
    context: CheckContext, checks: Mapping[str, CheckFunction], *, seconds: float, begin: Callable[[str], None]
) -> Iterator[Finding]:
    """All findings, check by check; `begin` is called with the name of each before it starts."""
    for name, check in checks.items():
        begin(name)
        for finding in _run_within(seconds, lambda check=check: check(context)):  # type: ignore[misc]
            yield replace(finding, check=name)


def _run_within(seconds: float, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A thread cannot be ended, only abandoned: a check that hangs does not keep the others from running."""
    found: list[Finding] = []
    variables = contextvars.copy_context()
    thread = threading.Thread(target=lambda: variables.run(_collect, check, found), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        late = critical(f"the check did not end within {seconds:g} seconds", "find out why, or use --seconds")
        return [*found, late]
    return found


def _collect(check: Callable[[], Iterable[Finding]], found: list[Finding]) -> None:
    try:
        found.extend(check())
    except UnreachableError as error:
        found.append(critical(str(error), "check that this machine can reach DNSIMPLE_BASE_URL, then try again"))
    except AuthenticationError as error:
        found.append(critical(f"DNSimple rejects the token: {error}", "see the check `token`"))
    except RetryableError as error:
        found.append(critical(str(error), "try again later"))
    except CertcourierError as error:
        found.append(critical(str(error), "change the setting that is named"))
    except SQLAlchemyError as error:
        found.append(critical(*explain_failure(error)))
    except Exception as error:  # noqa: BLE001, a check that breaks is a finding, and the others still run
        found.append(critical(f"the check failed: {type(error).__name__}: {error}", "report this as a bug"))
