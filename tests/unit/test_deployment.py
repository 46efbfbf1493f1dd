"""The deployment runs unprivileged, gets its secrets as files, and is installed by hash."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import __version__

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNITS = dict(re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", DEPLOYMENT, re.DOTALL))


def test_a_requirement_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """One of the real file's, with another hash, by the options of Makefile and Dockerfile."""
    (package,) = re.findall(r"^(idna==\S+) \\$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    file = tmp_path / "requirements.txt"
    file.write_text(f"{package} --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-d", str(tmp_path), "-r"]
    run = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    if "No matching distribution" in run.stderr:
        pytest.skip("no package index can be reached from here")
    assert run.returncode != 0
    assert "DO NOT MATCH THE HASHES" in run.stderr


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_has_its_version_and_hash(name: str) -> None:
    entries = re.split(r"^(?=[a-zA-Z])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"\S+==\S+ ", entry), entry
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_requirements_are_installed_by_their_hashes(name: str) -> None:
    installs = re.findall(r"pip install .*-r .*", (ROOT / name).read_text())
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_the_image_is_labelled_with_the_version() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE


def test_the_image_runs_without_privileges() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "certcourier"
    assert DOCKERFILE.index("USER ") < DOCKERFILE.index('CMD ["gunicorn"')
    assert re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE) == ["/var/lib/certcourier"]


def test_containers_have_a_read_only_root_and_no_capability_and_get_secrets_as_files() -> None:
    for line in ("read_only: true", "cap_drop: [ALL]", '"no-new-privileges:true"', "tmpfs: [/tmp]", "/run/secrets/"):
        assert line in COMPOSE
    assert not re.search(r"(PASSWORD|TOKEN|SECRET|KEY|DATABASE_URL): ", COMPOSE)


def test_the_units_hand_secrets_over_as_credentials() -> None:
    assert set(UNITS) == {"certcourier-web.service", "certcourier-worker.service"}
    for unit in UNITS.values():
        assert "LoadCredential=" in unit
        assert not re.search(r"^Environment=\w*(TOKEN|SECRET|KEY)=", unit, re.MULTILINE)


@pytest.fixture(params=sorted(UNITS))
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit of the page, with a program that exists here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: install Debian's package `systemd`")
    file = tmp_path / str(request.param)
    file.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNITS[file.name], flags=re.MULTILINE))
    return file


def test_systemd_accepts_the_unit(unit: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    warnings = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert [line for line in warnings.splitlines() if "certcourier" in line] == []


def test_the_unit_is_confined(unit: Path) -> None:
    """At most 20 of 100 points of exposure; a service without restrictions has 96."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Overall exposure level" in run.stdout, run.stderr
    assert run.returncode == 0, run.stdout
