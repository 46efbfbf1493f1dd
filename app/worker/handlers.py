"""The functions that `app.jobs.kinds` names, resolved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sqlalchemy.orm import Session

from app.jobs.kinds import JobKind
from app.jobs.queue import Claim
from app.services import Services


@dataclass(frozen=True, slots=True)
class Handler:
    """`run` does the job. `on_death` records in the job's last transaction that it failed permanently."""

    run: Callable[[Services, Claim], None]
    on_death: Callable[[Services, Session, Claim, str], None] | None = None


def _resolve(reference: str) -> Any:
    module, _, function = reference.partition(":")
    return getattr(import_module(module), function)


def _handler(kind: JobKind) -> Handler:
    definition = kind.definition
    return Handler(_resolve(definition.handler), _resolve(definition.on_death) if definition.on_death else None)


HANDLERS: dict[str, Handler] = {kind: _handler(kind) for kind in JobKind}
