"""The destination that the documentation tells how to write: installed as a package, found, and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "tests" / "example_destination"
PAGE = (ROOT / "docs" / "writing-destinations.md").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has installed the example, from a copy of its source, without any network."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(folder / "site"), str(source)],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def run(site: Path, program: str, *arguments: object) -> str:
    """Output of a program that finds the package as a worker would."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_page_shows_the_code_that_is_run() -> None:
    shown = re.findall(r"```(?:python|toml)\n(.*?)```", PAGE, re.DOTALL)
    assert (EXAMPLE / "certcourier_spool.py").read_text() in shown
    assert (EXAMPLE / "pyproject.toml").read_text() in shown


def test_the_installed_kind_delivers_once_and_never_an_older_over_a_newer(site: Path, tmp_path: Path) -> None:
    (configuration,) = [text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[[destination]]" in text]
    file = tmp_path / "destinations.toml"
    file.write_text(configuration.replace("/var/spool/certificates", str(tmp_path / "spool")))
    program = (
        "import sys; from pathlib import Path\n"
        "from app.destinations.registry import load_destinations\n"
        "from tests.support.bundles import bundle\n"
        "(spool,) = load_destinations(Path(sys.argv[1]), data_dir=Path(sys.argv[2])).values()\n"
        "spool.check()\n"
        "print(*[spool.deliver(bundle(number)).outcome for number in (1, 2, 2, 1)])\n"
    )
    assert run(site, program, file, tmp_path).strip() == "delivered delivered delivered superseded"
    (document,) = (tmp_path / "spool").iterdir()
    assert json.loads(document.read_text())["key"] == "key 2\n"
    assert stat.S_IMODE(document.stat().st_mode) == 0o600


def test_what_is_wrong_in_its_configuration_is_named(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "destinations.toml"
    file.write_text('[[destination]]\nname = "spool"\nkind = "spool"\nfolders = "x"\n')
    program = (
        "import sys; from pathlib import Path\n"
        "from app.destinations.registry import load_destinations\n"
        "try:\n"
        "    load_destinations(Path(sys.argv[1]), data_dir=Path('.'))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    said = run(site, program, file)
    assert said.startswith("DestinationRefusedError")
    assert "folder: is missing" in said
    assert "folders: unknown field; did you mean 'folder'?" in said
