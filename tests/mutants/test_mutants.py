"""The short form of `make mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, ROOT, Mutant, copy_code, survives

_QUICK = {"a key that does not match its certificate is accepted", "an older certificate replaces a newer one"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_code_to_break_exists(mutant: Mutant) -> None:
    assert mutant.text in (ROOT / mutant.file).read_text()
    assert all((ROOT / test).exists() for test in mutant.tests)


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name in _QUICK], ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found(mutant: Mutant, tmp_path: Path) -> None:
    copy_code(tmp_path)
    assert not survives(mutant, tmp_path)
