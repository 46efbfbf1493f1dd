"""`python -m tests.chaos`: the long campaigns, with a table of what was done and what broke."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.campaign import Plan, Report, run
from tests.chaos.checks import PROMISES

_MOST_DETAILS = 10
_PAGE = """# Torture

Made by `make torture`: web servers and workers are killed by `kill -9` at random instants, {kills} times for each
database, while orders and renewals come in, events come doubled, late, out of order, forged or not at all, answers
of DNSimple are wrong, halved, slow or lost, and another program spends the same quota. A reader looks at every
published pair all the while. Times of waiting are brought forward, so that days pass in minutes. Then everything
may come to rest, and what is there is compared with what was promised. Every commit boundary is attacked one by one
in `tests/chaos/test_boundaries.py`.

{table}
"""


def main() -> int:
    """Kill, look, tell; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--kills", type=int, default=500, help="kill -9 for each database (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of faults and kills; by default another one each time"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there too")
    given = parser.parse_args()
    kinds = ("sqlite", "postgresql") if given.database == "both" else (given.database,)
    reports = []
    for kind in kinds:
        print(f"torturing {kind}, seed {given.seed}", file=sys.stderr, flush=True)
        reports.append(run(Plan(kind, given.kills, given.seed, progress=_tell)))
    text = table(reports)
    print(text)
    if given.write:
        given.write.write_text(_PAGE.format(kills=given.kills, table=text))
    return int(any(report.violations for report in reports))


def _tell(line: str) -> None:
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
