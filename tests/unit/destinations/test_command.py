"""The command destination: real programs, given everything but the key, ended in time."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.destinations.base import Change, DestinationRefusedError, DestinationUnavailableError
from app.destinations.command import CommandConfig, CommandDestination
from tests.support.bundles import bundle
from tests.support.stack import wait_until


def change(number: int, places: dict[str, Path] | None = None) -> Change:
    name = f"www.customer{number}.example"
    return Change(name, 1000 + number, name, (f"customer{number}.example", name), f"{number:064x}", places or {})


def python(program: str, *arguments: object, **more: object) -> CommandDestination:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return CommandDestination(CommandConfig.model_validate({"name": "hook", "command": command} | more))


def test_success_says_what_the_program_said() -> None:
    output = python("print('reloaded'); import sys; print('fine', file=sys.stderr)").run([change(1)])
    assert "exited with 0 after" in output
    assert "reloaded" in output
    assert "fine" in output


def test_no_shell_takes_part() -> None:
    assert "$HOME; `id` *" in CommandDestination(CommandConfig(name="hook", command=("echo", "$HOME; `id` *"))).run(
        [change(1)]
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; print('no such vhost'); sys.exit(3)", "exited with 3 after .*: no such vhost"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was terminated by SIGSEGV"),
    ],
)
def test_another_exit_is_a_failure_that_can_be_tried_again(program: str, message: str) -> None:
    with pytest.raises(DestinationUnavailableError, match=message):
        python(program).run([change(1)])


def test_a_program_that_is_not_there_can_be_tried_again_and_is_found_at_the_start() -> None:
    destination = CommandDestination(CommandConfig(name="hook", command=("/no/such/program",)))
    with pytest.raises(DestinationUnavailableError, match="cannot be started"):
        destination.run([change(1)])
    with pytest.raises(DestinationRefusedError, match="command: /no/such/program is not a program"):
        destination.check()
    with pytest.raises(DestinationRefusedError, match="directory: /no/such is not a folder"):
        CommandDestination(CommandConfig(name="hook", command=("true",), directory=Path("/no/such"))).check()
    CommandDestination(CommandConfig(name="hook", command=("true",))).check()


def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """Its child ignores SIGTERM, and keeps the output open."""
    program = f"(trap '' TERM; exec sleep 600) & echo $! > {tmp_path}/child; echo waiting; sleep 600"
    config = CommandConfig(name="hook", command=("sh", "-c", program), kill_after_seconds=2)
    with pytest.raises(DestinationUnavailableError, match=r"was killed after 2 seconds .*: waiting"):
        CommandDestination(config).run([change(1)])
    status = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/status")
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), "the child has ended")


def test_what_it_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    )
    python(program, file).run([change(1)])
    os.kill(int(file.read_text()), signal.SIGKILL)


def test_of_much_output_the_end_is_kept_as_one_line_that_any_database_takes() -> None:
    output = python("print('x' * 10_000_000); print('a\\0b\\x1b[31m'); print('the end')").run([change(1)])
    assert len(output) < 2200
    assert output.endswith("a b [31m the end")
    assert ": ... x" in output


def test_a_program_that_reads_nothing_is_told_anyway() -> None:
    python("pass").run([change(number) for number in range(5000)])


def test_one_run_for_all_gets_each_certificate_as_a_line() -> None:
    program = "import os, sys; print(os.environ['CERTCOURIER_COUNT'], *sys.stdin.read().split(chr(10)), sep='|')"
    destination = python(program)
    assert destination.min_interval_seconds == 2.0
    output = destination.run([change(1, {"folder": Path("/certs/www.customer1.example")}), change(2)])
    count, *lines = output.partition(": ")[2].split("|")
    assert count == "2"
    assert [json.loads(line) for line in lines if line] == [
        {
            "lineage": "www.customer1.example",
            "certificate_id": 1001,
            "common_name": "www.customer1.example",
            "names": ["customer1.example", "www.customer1.example"],
            "fingerprint_sha256": f"{1:064x}",
            "places": {"folder": "/certs/www.customer1.example"},
        },
        {
            "lineage": "www.customer2.example",
            "certificate_id": 1002,
            "common_name": "www.customer2.example",
            "names": ["customer2.example", "www.customer2.example"],
            "fingerprint_sha256": f"{2:064x}",
            "places": {},
        },
    ]


def test_a_run_for_each_gets_it_in_its_environment_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNSIMPLE_API_TOKEN", "our token")
    monkeypatch.setenv("DATABASE_URL", "our database")
    destination = CommandDestination(CommandConfig(name="hook", command=("env",), run_for="each"))
    assert destination.min_interval_seconds is None
    places = {
        "folder": Path("/c/www"),
        "fullchain": Path("/c/www/fullchain.pem"),
        "privkey": Path("/c/www/privkey.pem"),
    }
    output = destination.run([change(1, places)]).partition(": ")[2]
    environment = dict(entry.partition("=")[::2] for entry in shlex.split(output))
    assert {name: value for name, value in environment.items() if name.startswith("CERTCOURIER_")} == {
        "CERTCOURIER_DESTINATION": "hook",
        "CERTCOURIER_COUNT": "1",
        "CERTCOURIER_LINEAGE": "www.customer1.example",
        "CERTCOURIER_CERTIFICATE_ID": "1001",
        "CERTCOURIER_COMMON_NAME": "www.customer1.example",
        "CERTCOURIER_NAMES": "customer1.example,www.customer1.example",
        "CERTCOURIER_FINGERPRINT_SHA256": f"{1:064x}",
        "CERTCOURIER_FOLDER": "/c/www",
        "CERTCOURIER_FULLCHAIN_FILE": "/c/www/fullchain.pem",
        "CERTCOURIER_PRIVKEY_FILE": "/c/www/privkey.pem",
    }
    assert set(environment) - {"PATH", "HOME", "LANG", "LC_ALL", "TZ"} <= {
        name for name in environment if name.startswith("CERTCOURIER_")
    }


def test_the_key_is_in_nothing_that_a_program_gets() -> None:
    program = "import os, sys; print(dict(os.environ), sys.stdin.read())"
    for run_for in ("all", "each"):
        result = python(program, run_for=run_for).deliver(bundle(1))
        assert result.outcome == "delivered"
        assert "www.example.com" in result.detail
        assert "key 1" not in result.detail


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": []}, "command"),
        ({"command": "nginx -s reload"}, "command"),
        ({"command": ["true"], "kill_after_seconds": 60}, "kill_after_seconds"),
        ({"command": ["true"], "run_for": "some"}, "run_for"),
    ],
)
def test_a_configuration_that_cannot_work_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CommandConfig.model_validate({"name": "hook"} | fields)
