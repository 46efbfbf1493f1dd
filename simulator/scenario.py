"""A scenario file: options, rates, scripted faults and outcomes in one TOML document."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.catalogue import parse_rates
from simulator.faults import Fault
from simulator.settings import Settings


class ScenarioError(ValueError):
    """The file is invalid; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`options` by the names of `Settings`; `outcomes` as the control interface takes them."""

    options: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    outcomes: list[dict[str, str]] = field(default_factory=list)


def load(path: Path) -> Scenario:
    """Read a scenario. Raises `ScenarioError`."""
    try:
        document = tomllib.loads(path.read_text())
        faults = [Fault.from_document(fault) for fault in _tables(document, "faults")]
        outcomes = _tables(document, "outcomes")
        for outcome in outcomes:
            _check_outcome(outcome)
        options = {name.replace("-", "_"): value for name, value in document.items()}
        options["rates"] = parse_rates(_rates(document))
        return Scenario(_check_options(options), faults, outcomes)
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from None
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}") from None


def _tables(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.pop(name, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise ValueError(f"{name} must be written as [[{name}]]")
    return found


def _rates(document: dict[str, Any]) -> list[tuple[str, Any]]:
    rates = document.get("rates", {})
    if not isinstance(rates, dict):
        raise TypeError("rates must be written as [rates]")
    return list(rates.items())


def _check_outcome(outcome: dict[str, Any]) -> None:
    if not {"domain", "state"} <= outcome.keys() <= {"domain", "state", "name"}:
        raise ValueError("an outcome has the fields domain, state and optionally name")
    if not all(isinstance(value, str) for value in outcome.values()):
        raise ValueError("domain, state and name of an outcome must be strings")


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    known = {setting.name: setting for setting in dataclasses.fields(Settings)}
    for name, value in options.items():
        if name not in known or name == "state":
            raise ValueError(f"unknown option {name}")
        default = known[name].default
        kind = type(default) if default is not dataclasses.MISSING else dict if name == "rates" else list
        is_valid = isinstance(value, (kind, int) if kind is float else kind)
        if not is_valid or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name} must be of type {kind.__name__}")
    return options
