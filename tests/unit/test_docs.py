"""The documentation is complete, consistent with the code, and its examples are valid."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

import app
from app import create_app as create_service
from app.db.models import OrderState
from app.destinations.base import Change
from app.destinations.command import CommandConfig, CommandDestination
from app.destinations.files.destination import FilesConfig, FilesDestination
from app.destinations.registry import KINDS, load_destinations
from app.domain_names import resolve_names
from app.endpoints.registry import load_endpoints
from app.endpoints.starttls import STARTTLS
from app.web.api.openapi import openapi_document
from config import Settings
from simulator.__main__ import options_table
from simulator.catalogue import catalogue_table
from simulator.scenario import Scenario
from simulator.server import create_app, create_world
from simulator.settings import Settings as SimulatorSettings
from tests.support.checkout import blocks
from tests.support.harness import make_settings
from tools.pictures import PICTURES
from tools.reference import PAGES
from tools.reference.commands import all_commands
from tools.reference.markdown import UndocumentedError, described

ROOT = Path(__file__).resolve().parents[2]
ALL_PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    if "_build" not in path.parts
)
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def test_every_option_and_call_of_the_simulator_is_documented() -> None:
    assert options_table() in DOCS["simulator.md"]
    assert catalogue_table() in DOCS["simulator.md"]
    for rule in create_app(create_world(SimulatorSettings(), Scenario())).url_map.iter_rules():
        if rule.rule.startswith("/_simulator/"):
            path = rule.rule.removeprefix("/_simulator").partition("<")[0].rstrip("/")
            assert f"{path}" in DOCS["simulator.md"], rule.rule


def test_every_action_of_the_audit_trail_is_documented() -> None:
    actions = {
        action
        for file in (ROOT / "app").rglob("*.py")
        for action in re.findall(r'\baction="([a-z_.]+)"', file.read_text())
    }
    assert len(actions) > 10
    for action in actions:
        assert f"`{action}`" in DOCS["operations.md"], action


def test_every_order_state_is_documented() -> None:
    for state in OrderState:
        assert f"| `{state}` |" in DOCS["api.md"]


def test_destination_examples_are_valid(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS["destinations.md"], re.DOTALL)
    assert len(examples) >= 2
    file = tmp_path / "destinations.toml"
    file.write_text(examples[0])
    first = load_destinations(file, data_dir=tmp_path)
    for example in examples:
        file.write_text(example)
        entries = tomllib.loads(example)
        destinations = load_destinations(file, data_dir=tmp_path) if "destination" in entries else first
        endpoints = load_endpoints(file, destinations)
        if "destination" in entries:
            assert list(destinations) == [entry["name"] for entry in entries["destination"]]
        assert list(endpoints) == [entry["name"] for entry in entries.get("endpoint", [])]


def test_every_variable_passed_to_a_command_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ"):
        monkeypatch.setenv(name, "/usr/bin:/bin")
    folder = Path("/certificates")
    config = CommandConfig(name="hook", command=("env",), run_for="each")
    output = CommandDestination(config).run([Change("slot", 1, "name", ("name",), "ab", {"folder": folder})])
    for variable in re.findall(r"(\w+)=", output):
        assert f"`{variable}`" in DOCS["destinations.md"], variable
    for layout in ("separate", "haproxy", "traefik", "pkcs12"):
        fields = {"path": folder, "layout": layout, "password_file": folder if layout == "pkcs12" else None}
        for place in FilesDestination(FilesConfig.model_validate(fields)).places("slot").keys() - {"folder"}:
            assert f"_{place.upper()}_FILE`" in DOCS["destinations.md"], place


def test_every_starttls_protocol_is_documented() -> None:
    section = DOCS["destinations.md"].partition("## Endpoints")[2]
    for protocol in STARTTLS:
        assert f"`{protocol}`" in section


def test_every_destination_kind_is_explained() -> None:
    for kind in KINDS:
        assert f"\n## {kind}\n" in DOCS["destinations.md"], kind


def test_order_examples_are_valid() -> None:
    texts = [DOCS["api.md"], (ROOT / "README.md").read_text()]
    bodies = [json.loads(body) for text in texts for body in re.findall(r"-d '(\{.*?\})'", text)]
    assert bodies
    for body in bodies:
        resolve_names(body["domain"], body.get("name", "www"), body.get("san", []))


def test_every_test_named_by_the_security_page_exists() -> None:
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    names = re.findall(r"`(test_\w+)`", DOCS["security.md"])
    files = re.findall(r"`(tests/\S+\.py)`", DOCS["security.md"])
    assert len(names) > 30
    assert len(files) > 10
    for name in names:
        assert any(f"def {name}(" in text for text in tests), name
    for file in files:
        assert (ROOT / file).is_file(), file


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
def test_links_between_pages_resolve(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target


def test_every_decision_record_has_date_and_status_and_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "index.md").read_text()
    for record in folder.glob("0*.md"):
        title, _, head, *_ = record.read_text().splitlines()
        date = re.match(
            r"Date: (\d{4}-\d\d-\d\d)( \(recorded \d{4}-\d\d-\d\d\))?\. Status: (Accepted|Superseded)", head
        )
        assert date, record.name
        assert f"| [{title.removeprefix('# ')}]({record.name}) | {date[1]} |" in index, record.name


def test_the_reading_order_names_existing_modules_of_every_package() -> None:
    named = re.findall(r"`([a-z_/]+)`", app.__doc__ or "")
    for name in named:
        assert (ROOT / "app" / name).is_dir() or (ROOT / "app" / f"{name}.py").is_file(), name
    packages = {path.parent.name for path in (ROOT / "app").glob("*/__init__.py")}
    # Reached from the others, or described by them.
    assert packages - {name.partition("/")[0] for name in named} <= {"auth", "crypto", "endpoints", "notifications"}


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_matches_the_code(name: str) -> None:
    committed = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    assert committed == PAGES[name](), "run `make reference`"


def test_the_reference_has_no_obsolete_page() -> None:
    found = {path.stem for path in (ROOT / "docs" / "reference").glob("*.md")}
    assert found == {*PAGES, "index"}


@pytest.mark.parametrize("name", PICTURES)
def test_the_diagrams_match_their_program(name: str) -> None:
    committed = (ROOT / "docs" / "images" / f"{name}.svg").read_text()
    assert committed == PICTURES[name]().svg(), "run `make reference`"
    picture = ET.fromstring(committed)  # noqa: S314, our own file
    for part in ("title", "desc"):
        assert picture.findtext(f"{{http://www.w3.org/2000/svg}}{part}")


def test_a_missing_description_is_an_error() -> None:
    with pytest.raises(UndocumentedError, match="the field"):
        described(" ", "the field")


@pytest.mark.parametrize("file", ALL_PAGES, ids=str)
def test_every_command_named_by_a_page_exists(file: Path) -> None:
    commands = dict(all_commands())
    groups = {words.split()[1] for words in commands if words.count(" ") == 2}
    for typed in re.findall(r"(?:`|\$ |/)flask ((?:-e [^\s`]+ )?[a-z][^`\n|]*)", (ROOT / file).read_text()):
        words = re.sub(r"^-e \S+ ", "", typed).split()
        name = " ".join(words[: 2 if words[0] in groups else 1])
        if len(name.split()) == 1 and name in groups:
            continue  # a group as such
        command = commands.get(f"flask {name}")
        assert command is not None, f"flask {typed}"
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", typed):
            assert option in known, f"flask {typed}: {option}"


@pytest.mark.parametrize("file", [Path("README.md"), *(page for page in ALL_PAGES if "howto" in page.parts)], ids=str)
def test_every_block_of_a_guide_is_run_or_marked_as_not_run(file: Path) -> None:
    page = (ROOT / file).read_text()
    if not page.startswith("<!-- runs -->"):
        for block in blocks(page):
            assert not block.runs or block.language == "text", (
                f"{file}:{block.line} is neither run nor marked as not run"
            )


def test_few_blocks_are_marked_as_not_run() -> None:
    excused = [block for file in ALL_PAGES for block in blocks((ROOT / file).read_text()) if not block.runs]
    assert 0 < len(excused) <= 8


def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    loads = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']*""")
    for page in pages:
        assert not loads.findall(page.read_text()), page
    for style in tmp_path.rglob("*.css"):
        assert not re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", style.read_text()), style


def test_every_endpoint_is_documented(tmp_path: Path) -> None:
    settings = make_settings(f"sqlite:///{tmp_path}/docs.db", "http://127.0.0.1:1", tmp_path)
    paths = openapi_document()["paths"]
    for rule in create_service(settings).url_map.iter_rules():
        if rule.rule == "/" or rule.endpoint.startswith("dashboard."):  # pages, not part of the API
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in rule.methods or ():
            if method not in {"HEAD", "OPTIONS"}:
                assert method.lower() in paths.get(path, {}), f"{method} {path}"


@pytest.mark.parametrize("file", ALL_PAGES, ids=str)
def test_blocks_are_valid_in_their_language(file: Path) -> None:
    page = (ROOT / file).read_text()
    settings = {*(name.upper() for name in Settings.model_fields), "POSTGRES_PASSWORD"}
    for block in blocks(page):
        match block.language:
            case "toml":
                tomllib.loads(block.text)
            case "yaml":
                assert yaml.safe_load(block.text)
            case "json":
                assert json.loads(block.text.replace("...", ""))
            case "python":
                compile(block.text, str(file), "exec")
            case "ini" if not re.search(r"^\[", block.text, re.MULTILINE):
                names = re.findall(r"^([A-Z_]+)=", block.text, re.MULTILINE)
                assert names, f"{file}:{block.line} sets nothing"
                assert settings.issuperset(names), f"{file}:{block.line}"
