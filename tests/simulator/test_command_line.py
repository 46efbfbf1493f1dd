"""`python -m simulator`: what is wrong is said in a line."""

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
def test_a_wrong_option_is_told_without_all_the_others(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert second == "Run python -m simulator --help for all options."


def test_a_scenario_that_cannot_be_read_is_told_the_same_way(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        parse(["--scenario", str(tmp_path / "missing.toml")])
    assert len(capsys.readouterr().err.splitlines()) == 2
