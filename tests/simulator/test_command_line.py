"""`python -m simulator`: an error is reported in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.__main__ import parse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "5"], "unrecognized arguments: --prot 5"),
        (["--port", "many"], "argument --port: invalid int value: 'many'"),
        (["--fault", "nonsense=1"], "argument --fault: "),
    ],
)
def test_a_wrong_option_is_reported_without_the_usage_of_all_others(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert second == "Run python -m simulator --help for all options."


def test_an_unreadable_scenario_is_reported_in_the_same_way(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        parse(["--scenario", str(tmp_path / "missing.toml")])
    assert len(capsys.readouterr().err.splitlines()) == 2
