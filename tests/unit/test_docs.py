"""What is not documented fails the suite."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import click
import pytest

from app.certificates.names import resolve_names
from app.certificates.problems import KINDS as KINDS_OF_ALARMS
from app.certificates.receiving import ACTED_ON
from app.cli import GROUPS, worker
from app.destinations.base import Change
from app.destinations.command import CommandConfig, CommandDestination
from app.destinations.files import FilesConfig, FilesDestination
from app.destinations.registry import KINDS, all_kinds, load_destinations
from app.endpoints.registry import Endpoint, load_endpoints
from app.endpoints.starttls import BEGIN
from app.jobs.handlers import HANDLERS
from app.web.docs import openapi_document
from config import settings_table
from simulator.__main__ import options_table
from simulator.catalogue import catalogue_table
from simulator.scenario import Scenario
from simulator.server import create_app, create_world
from simulator.settings import Settings as SimulatorSettings

ROOT = Path(__file__).resolve().parents[2]
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def test_every_setting_is_documented() -> None:
    assert settings_table() in DOCS["configuration.md"]


def test_every_option_and_call_of_the_simulator_is_documented() -> None:
    assert options_table() in DOCS["simulator.md"]
    assert catalogue_table() in DOCS["simulator.md"]
    for rule in create_app(create_world(SimulatorSettings(), Scenario())).url_map.iter_rules():
        if rule.rule.startswith("/_simulator/"):
            path = rule.rule.removeprefix("/_simulator").partition("<")[0].rstrip("/")
            assert f"{path}" in DOCS["simulator.md"], rule.rule


def test_every_command_is_documented() -> None:
    for group in GROUPS:
        line = next(line for line in DOCS["operations.md"].splitlines() if line.startswith(f"| `flask {group.name} "))
        for name in group.commands:
            assert re.search(rf"[ `]{name}\b", line), f"flask {group.name} {name}"
    assert isinstance(worker, click.Command)
    assert "`flask worker`" in DOCS["operations.md"]
    assert "`flask doctor " in DOCS["operations.md"]


def test_every_event_that_is_acted_on_is_documented() -> None:
    for name in ACTED_ON:
        assert f"`{name}`" in DOCS["api.md"]


def test_every_kind_of_job_is_documented() -> None:
    for kind in HANDLERS:
        assert f"| `{kind}` |" in DOCS["architecture.md"]


def test_every_state_of_an_order_is_documented() -> None:
    states = openapi_document()["components"]["schemas"]["OrderDocument"]["properties"]["order_state"]["enum"]
    for state in states:
        assert f"| `{state}` |" in DOCS["api.md"]


def test_every_field_of_an_order_is_documented() -> None:
    for field in openapi_document()["components"]["schemas"]["IssueRequest"]["properties"]:
        assert f"| `{field}` |" in DOCS["api.md"]


def test_every_field_of_a_destination_is_documented() -> None:
    for kind in KINDS:
        for field in set(all_kinds()[kind].load().Config.model_fields) - {"kind"}:
            assert f"| `{field}` |" in DOCS["destinations.md"], f"{kind}: {field}"


def test_the_examples_of_destinations_work(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS["destinations.md"], re.DOTALL)
    assert len(examples) >= 2
    file = tmp_path / "destinations.toml"
    file.write_text(examples[0])
    first = load_destinations(file, var_dir=tmp_path)
    for example in examples:
        file.write_text(example)
        entries = tomllib.loads(example)
        destinations = load_destinations(file, var_dir=tmp_path) if "destination" in entries else first
        endpoints = load_endpoints(file, destinations)
        if "destination" in entries:
            assert list(destinations) == [entry["name"] for entry in entries["destination"]]
        assert list(endpoints) == [entry["name"] for entry in entries.get("endpoint", [])]


def test_every_variable_that_a_command_gets_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ"):
        monkeypatch.setenv(name, "/usr/bin:/bin")
    folder = Path("/certificates")
    config = CommandConfig(name="hook", command=("env",), run_for="each")
    said = CommandDestination(config).run([Change("slot", 1, "name", ("name",), "ab", {"folder": folder})])
    for variable in re.findall(r"(\w+)=", said):
        assert f"`{variable}`" in DOCS["destinations.md"], variable
    for layout in ("separate", "haproxy", "traefik", "pkcs12"):
        fields = {"path": folder, "layout": layout, "password_file": folder if layout == "pkcs12" else None}
        for place in FilesDestination(FilesConfig.model_validate(fields)).places("slot").keys() - {"folder"}:
            assert f"_{place.upper()}_FILE`" in DOCS["destinations.md"], place


def test_every_field_of_an_endpoint_is_documented() -> None:
    section = DOCS["destinations.md"].partition("## Endpoints")[2]
    for field in Endpoint.model_fields:
        assert f"| `{field}` |" in section, field
    for protocol in BEGIN:
        assert f"`{protocol}`" in section


def test_every_kind_of_alarm_is_documented() -> None:
    for kind in KINDS_OF_ALARMS:
        assert f"| `{kind}` |" in DOCS["operations.md"]


def test_the_examples_of_orders_are_orders() -> None:
    texts = [DOCS["api.md"], (ROOT / "README.md").read_text()]
    bodies = [json.loads(body) for text in texts for body in re.findall(r"-d '(\{.*?\})'", text)]
    assert bodies
    for body in bodies:
        resolve_names(body["domain"], body.get("name", "www"), body.get("san", []))


def test_every_test_that_security_names_exists() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(?:tests/\S+/)?(test_\w+(?:\.py)?)`", DOCS["security.md"])
    assert len(named) > 30
    for name in named:
        if name.endswith(".py"):
            assert name in files, name
        else:
            assert any(f"def {name}(" in text for text in files.values()), name


def test_every_threat_has_a_control_and_a_test() -> None:
    table = DOCS["security.md"].partition("| Threat | Control | Test |")[2].partition("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) > 20
    for row in rows:
        assert len(row) == 3, row
        assert "`" in row[2], row


@pytest.mark.parametrize(
    "file", sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]), ids=lambda path: path.name
)
def test_links_between_pages_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target
