"""`python -m tests.chaos`: the long campaigns, with a table of work, faults and violations."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.campaign import Plan, Report, run
from tests.chaos.checks import PROMISES

_MOST_DETAILS = 10
_PAGE = """# Chaos tests

Written by `make chaos`. Web servers and workers are killed with `kill -9` at random instants, {kills} times per
database, while orders and renewals arrive; events are duplicated, late, reordered, forged or lost; DNSimple's
answers are wrong, truncated, slow or lost; and another program uses the same quota. A reader opens every published
pair of certificate and key throughout. Delays are shortened, so that days pass in minutes. Afterwards all
outstanding work is completed, and the result is compared with the guarantees. In addition,
`tests/chaos/test_boundaries.py` kills a process at every single commit.

{table}
"""


def main() -> int:
    """Run the campaigns. Returns 1 if a guarantee was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--kills", type=int, default=500, help="kill -9 for each database (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="seed of faults and kills (default: the current time)"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page to FILE")
    given = parser.parse_args()
    kinds = ("sqlite", "postgresql") if given.database == "both" else (given.database,)
    reports = []
    for kind in kinds:
        print(f"running on {kind}, seed {given.seed}", file=sys.stderr, flush=True)
        reports.append(run(Plan(kind, given.kills, given.seed, progress=_print_progress)))
    text = table(reports)
    print(text)
    if given.write:
        given.write.write_text(_PAGE.format(kills=given.kills, table=text))
    return int(any(report.violations for report in reports))


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _counted(report: Report) -> Counter[str]:
    return Counter({name: len(details) for name, details in report.violations.items()})


def table(reports: list[Report]) -> str:
    """Markdown: a column for each database; a row for each thing done, each fault and each promise."""
    columns = [report.plan.database for report in reports]
    parts: list[tuple[str, list[Counter[str]], set[str]]] = [
        ("Done", [report.done for report in reports], set()),
        ("Faults", [report.faults for report in reports], set()),
        ("Violations", [_counted(report) for report in reports], set(PROMISES)),
    ]
    lines = []
    for title, counts, always in parts:
        lines += [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        names = sorted(always.union(*counts))
        lines += [f"| {name} | {' | '.join(str(count[name]) for count in counts)} |" for name in names]
        lines.append("")
    for report in reports:
        for name, details in report.violations.items():
            lines += [f"- {report.plan.database}: {name}: {detail}" for detail in details[:_MOST_DETAILS]]
    lines += [f"{r.plan.database}: seed {r.plan.seed}, {r.seconds / 60:.1f} minutes." for r in reports]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
