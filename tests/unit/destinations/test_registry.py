"""The destinations file: what is wrong in it is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.destinations.base import DestinationConfig, DestinationRefusedError
from app.destinations.registry import load_destinations

ROOT = Path(__file__).resolve().parents[3]


def load(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "destinations.toml"
    file.write_text(text)
    return list(load_destinations(file, data_dir=tmp_path))


def test_without_a_file_there_is_one_of_files(tmp_path: Path) -> None:
    assert list(load_destinations(None, data_dir=tmp_path)) == ["files"]


def test_several_of_a_kind_are_allowed(tmp_path: Path) -> None:
    entry = '[[destination]]\nname = "{0}"\nkind = "files"\npath = "{0}"\n'
    assert load(tmp_path, entry.format("web") + entry.format("mail")) == ["web", "mail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no destination is configured"),
        ("= 1", "Invalid"),
        ("[other]", "unknown other"),
        ('[[destination]]\nkind = "carrier-pigeon"', "destination 1: kind must be one of files"),
        ('[[destination]]\nkind = "files"', "path: is missing"),
        (
            '[[destination]]\nkind = "files"\npath = "x"\nkeep_version = 2',
            "keep_version: unknown field; did you mean 'keep_versions'",
        ),
        ('[[destination]]\nkind = "files"\npath = "x"\nkeep_versions = -1', "keep_versions"),
        ('[[destination]]\nkind = "files"\npath = "x"\nname = "A b"', "name"),
        ('[[destination]]\nkind = "command"\ncommand = "echo hi"', "command: must be a list"),
        (
            '[[destination]]\nkind = "files"\npath = "x"\n[[destination]]\nkind = "files"\npath = "y"',
            "two destinations",
        ),
        (
            (
                '[[destination]]\nkind = "files"\nname = "a"\npath = "x"\n'
                '[[destination]]\nkind = "files"\nname = "b"\npath = "./x"'
            ),
            "destinations 'a' and 'b' have the same path",
        ),
        ('[[destination]]\nkind = "files"\npath = "x"\nafter = "web"', "after: no destination is named 'web'"),
        (
            '[[destination]]\nkind = "files"\npath = "x"\nafter = "files"',
            "these destinations depend on each other: files",
        ),
        (
            (
                '[[destination]]\nkind = "files"\nname = "a"\npath = "x"\nafter = "b"\n'
                '[[destination]]\nkind = "files"\nname = "b"\npath = "y"\nafter = ["a"]\n'
                '[[destination]]\nkind = "files"\nname = "c"\npath = "z"'
            ),
            "these destinations depend on each other: a, b",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DestinationRefusedError, match=message):
        load(tmp_path, text)


def test_patterns_choose_who_is_delivered() -> None:
    config = DestinationConfig(name="some", domains=("example.com", "*.Example.org"))
    assert config.takes(["www.example.com", "example.com"])
    assert config.takes(["a.b.example.org"])
    assert config.takes(["*.example.org"])
    assert not config.takes(["example.org", "www.example.com", "notexample.org"])
    assert DestinationConfig(name="all").takes(["anything.example"])


@pytest.mark.parametrize("pattern", ["", "a*.example", "*.*.example", "**"])
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="must be `"):
        DestinationConfig(name="some", domains=(pattern,))


def test_the_libraries_of_kinds_that_are_not_named_are_not_loaded() -> None:
    program = "import sys, app; from app.destinations.registry import load_destinations; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "app.destinations.files.destination" in loaded
    assert not {"asyncssh", "joserfc", "standardwebhooks"} & set(loaded)


LIBRARIES = {"vault": "hvac", "kubernetes": "kubernetes", "aws-acm": "boto3", "aws-secrets": "boto3"}


def loaded_after(text: str, tmp_path: Path) -> set[str]:
    """Which of the large libraries a process has loaded once it has everything that a worker or a web server needs."""
    file = tmp_path / "destinations.toml"
    file.write_text(text)
    script = (
        "import sys, pathlib, app, app.worker.worker, app.destinations.registry as registry;"
        f"registry.load_destinations(pathlib.Path({str(file)!r}), data_dir=pathlib.Path({str(tmp_path)!r}));"
        f"print(*({set(LIBRARIES.values())!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_a_start_without_them_loads_no_library_of_other_systems(tmp_path: Path) -> None:
    assert loaded_after('[[destination]]\nkind = "files"\npath = "x"\n', tmp_path) == set()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("vault", 'address = "https://vault.example.com"\ntoken_file = "token"'),
        ("kubernetes", 'namespace = "web"'),
        ("aws-acm", 'regions = ["eu-central-1"]'),
        ("aws-secrets", 'region = "eu-central-1"'),
    ],
)
def test_a_kind_that_is_named_loads_its_own_library_and_opens_no_connection(
    tmp_path: Path, kind: str, fields: str
) -> None:
    text = f'[[destination]]\nname = "far"\nkind = "{kind}"\n{fields}\n'
    assert loaded_after(text, tmp_path) == {LIBRARIES[kind]}
