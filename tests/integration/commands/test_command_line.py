"""The command line itself: help, omitted commands, and errors in settings and database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from sqlalchemy import make_url

from app import __version__, create_app
from app.commands.command_line import GROUPS, CommandLine
from app.commands.output import counted
from config import Settings
from tests.support import databases
from tests.support.harness import TOKEN, make_settings

ROOT = Path(__file__).resolve().parents[3]


def flask(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The real program, in a folder without `.env`, with no settings but those given."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FLASK_APP": "app:create_app_for_commands"}
    return subprocess.run(
        [str(Path(sys.executable).with_name("flask")), *arguments],
        cwd=folder,
        env=environment | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(CommandLine(lambda: create_app(settings)), arguments)


def test_help_needs_no_settings(tmp_path: Path) -> None:
    shown = flask(tmp_path, "--help")
    assert shown.returncode == 0
    assert "Certcourier: " in shown.stdout
    for group in GROUPS:
        assert f"\n  {group.name} " in shown.stdout
    explained = flask(tmp_path, "jobs", "list", "--help")
    assert (explained.returncode, explained.stderr) == (0, "")
    assert "certcourier jobs list --state dead" in explained.stdout


def test_the_version_needs_no_settings(tmp_path: Path) -> None:
    assert flask(tmp_path, "version").stdout.startswith(f"Certcourier {__version__} (code ")


def test_the_console_script_is_the_same_command_line(tmp_path: Path) -> None:
    (script,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items()
    assert script == ("certcourier", "app:main")
    shown = CliRunner().invoke(CommandLine(create_app), ["--version"])
    assert shown.output.startswith(f"Certcourier {__version__} (code ")
    program = "import sys, app; sys.argv = ['certcourier', 'jobs', 'list', '--help']; app.main()"
    explained = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert explained.stdout.startswith(b"Usage: certcourier jobs list")


@pytest.mark.parametrize("name", ["run", "shell", "routes"])
def test_flasks_own_commands_are_not_available(tmp_path: Path, name: str) -> None:
    refused = flask(tmp_path, name)
    assert refused.returncode == 2
    assert f"No such command '{name}'" in refused.stderr


def test_a_command_names_the_settings_that_are_missing(tmp_path: Path) -> None:
    refused = flask(tmp_path, "jobs", "list")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Configuration error:\n")
    assert "DNSIMPLE_API_TOKEN: is missing" in refused.stderr


def test_the_demos_settings_are_suggested_unless_a_file_was_given(tmp_path: Path) -> None:
    demo = tmp_path / "var" / "demo.env"
    demo.parent.mkdir()
    demo.write_text("PORT=many\n")
    assert "certcourier -e var/demo.env" in flask(tmp_path, "jobs", "list").stderr
    assert "certcourier -e" not in flask(tmp_path, "-e", str(demo), "jobs", "list").stderr


@pytest.mark.parametrize(
    "url", ["postgresql://courier:s3@cret@127.0.0.1:1/x", "postgresql://courier:s3cret@127.0.0.1:many/x"]
)
def test_an_invalid_url_is_reported_without_its_password(tmp_path: Path, url: str) -> None:
    settings = {"DNSIMPLE_API_TOKEN": TOKEN, "DNSIMPLE_ACCOUNT_ID": "1010", "PUBLIC_URL": "https://certs.example.com"}
    refused = flask(tmp_path, "jobs", "list", DATABASE_URL=url, **settings)
    assert refused.returncode == 1
    assert "DATABASE_URL: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "cret" not in refused.stderr


def test_a_missing_database_is_reported_with_the_remedy(tmp_path: Path) -> None:
    existing = databases.new_postgres_database()
    url = make_url(existing).set(database="not_there")
    try:
        settings = make_settings(url.render_as_string(hide_password=False), "http://127.0.0.1:1", tmp_path)
        for command in (("certificates", "list"), ("db", "current"), ("db", "upgrade"), ("worker",)):
            refused = run(settings, *command)
            assert refused.exit_code == 1
            assert 'database "not_there" does not exist; create it' in refused.output
    finally:
        databases.release_postgres_database(existing)


def test_missing_tables_are_reported_without_sql(tmp_path: Path) -> None:
    settings = make_settings(f"sqlite:///{tmp_path}/new.db", "http://127.0.0.1:1", tmp_path)
    refused = run(settings, "certificates", "list")
    assert refused.exit_code == 1
    assert "tables are missing" in refused.output
    assert "run `certcourier db upgrade`" in refused.output
    assert "SELECT" not in refused.output
    checked = run(settings, "doctor", "--only", "quota")
    assert "run `certcourier db upgrade`" in checked.output


def test_times_have_one_format(settings: Settings) -> None:
    """`settings`: with tables, in which a token makes an entry of the audit trail."""
    run(settings, "tokens", "create", "billing")
    shown = "".join(run(settings, *words).output for words in (("tokens", "list"), ("audit", "list")))
    times = re.findall(r"\d{4}-\d\d-\d\dT\S+", shown)
    assert len(times) >= 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time) for time in times), times


def test_a_progress_bar_is_shown_only_on_a_terminal(app: Flask) -> None:
    runner = app.test_cli_runner()
    rotated = runner.invoke(args=["keys", "rotate", "--wait", "0"])
    assert "Everything that could be decrypted is now encrypted" in rotated.output
    assert "Re-encrypting" not in rotated.output


@pytest.mark.parametrize(("count", "expected"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs")])
def test_counts_use_singular_and_plural(count: int, expected: str) -> None:
    assert counted(count, "job") == expected
