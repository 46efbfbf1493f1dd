"""`make mutants`: plant each bug, run the tests that must find it. Exits with 1 if a bug was not found."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants.mutants import MUTANTS, copy_code, run_tests, survives


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="only bugs with this text in their name")
    chosen = [mutant for mutant in MUTANTS if parser.parse_args().only in mutant.name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_code(folder)
        tests = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
        without_bug = run_tests(tests, folder)
        assert without_bug.returncode == 0, f"the tests fail without a bug:\n{without_bug.stdout}"
        survivors = 0
        for mutant in chosen:
            survived = survives(mutant, folder)
            survivors += survived
            print(f"{'NOT FOUND' if survived else 'found':9} {mutant.name}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
