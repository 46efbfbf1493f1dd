"""What a check finds, and how checks are run: each on its own, within a time limit."""

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

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`meaning` is what was found and what it means, `remedy` what to do. Neither holds a secret."""

    level: Level
    meaning: str
    remedy: str = ""
    check: str = ""


@dataclass(slots=True)
class CheckContext:
    """What the checks look at. `resolver` is the name server to ask, address and port, or None for the system's."""

    services: Services
    domain: str | None = None
    resolver: tuple[str, int] | None = None
    answers: list[Answer] = field(default_factory=list)

    @property
    def dnsimple(self) -> DNSimple:
        """The account; its answers are remembered for their dates, and a rejected token is no stop for others."""
        return self.services.dnsimple.read_only().with_observer(self.answers.append)


type Check = Callable[[CheckContext], Iterable[Finding]]


def ok(meaning: str) -> Finding:
    """All is well."""
    return Finding("ok", meaning)


def warning(meaning: str, remedy: str) -> Finding:
    """It works, and should be looked at."""
    return Finding("warning", meaning, remedy)


def problem(meaning: str, remedy: str) -> Finding:
    """Something does not work, or will stop to."""
    return Finding("problem", meaning, remedy)


def run_checks(
    examination: CheckContext, checks: Mapping[str, Check], *, seconds: float, begin: Callable[[str], None]
) -> Iterator[Finding]:
    """All findings, check by check; `begin` is told the name of each before it starts."""
    for name, check in checks.items():
        begin(name)
        for finding in _within(lambda check=check: check(examination), seconds):  # type: ignore[misc]
            yield replace(finding, check=name)


def _within(look: Callable[[], Iterable[Finding]], seconds: float) -> list[Finding]:
    """A thread cannot be ended, only left behind: what hangs costs its check and no other."""
    found: list[Finding] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(_careful, look, found), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        late = problem(f"it did not end within {seconds:g} seconds", "see what it waits for; --seconds waits longer")
        return [*found, late]
    return found


def _careful(look: Callable[[], Iterable[Finding]], found: list[Finding]) -> None:
    try:
        found.extend(look())
    except UnreachableError as error:
        found.append(problem(str(error), "see that this machine reaches DNSIMPLE_BASE_URL, then try again"))
    except AuthenticationError as error:
        found.append(problem(f"DNSimple rejects the token: {error}", "see what the check `token` says"))
    except RetryableError as error:
        found.append(problem(str(error), "try again in a while"))
    except CertcourierError as error:
        found.append(problem(str(error), "change what it names"))
    except SQLAlchemyError as error:
        found.append(problem(*explain_failure(error)))
    except Exception as error:  # noqa: BLE001, a check that breaks is a finding, and the others go on
        found.append(problem(f"the check itself failed: {type(error).__name__}: {error}", "report this as a defect"))
