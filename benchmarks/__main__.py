"""`python -m benchmarks`: measure all or some parts and write the tables into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks import history, ingestion, main_job, renewals, slow_dnsimple, wakeup, wave
from tests.support.databases import postgres_server

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_KINDS = ("SQLite", "PostgreSQL")
_PARTS: dict[str, Callable[[int], str]] = {
    "main-job": lambda _: main_job.report([main_job.measure(kind) for kind in _KINDS]),
    "wake-up": lambda _: wakeup.report(),
    "ingestion": lambda _: ingestion.report([ingestion.measure(kind) for kind in _KINDS]),
    "slow-dnsimple": lambda _: slow_dnsimple.report({kind: slow_dnsimple.measure(kind) for kind in _KINDS}),
    "history": lambda _: history.report({kind: history.measure(kind) for kind in _KINDS}),
    "renewals": lambda _: renewals.report({kind: renewals.measure(kind) for kind in renewals.SERVERS}),
    "wave": lambda number: wave.report([wave.measure(kind, number) for kind in _KINDS]),
}


def main() -> int:
    """Measure the given parts, or all of them, and replace their tables in docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(_PARTS)}; by default all")
    parser.add_argument(
        "--certificates", type=int, default=1000, help="size of the wave of renewals (default: %(default)s)"
    )
    given = parser.parse_args()
    chosen = given.parts or list(_PARTS)
    unknown = set(chosen) - set(_PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(_PARTS)}")
    for part in chosen:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        table = _PARTS[part](given.certificates)
        print(table + "\n", flush=True)
        _PAGE.write_text(_page(_tables() | {part: table}))
    return 0


def _page(tables: dict[str, str]) -> str:
    parts = [f"{_MARK}{part} -->\n\n{tables[part]}" for part in _PARTS if part in tables]
    return "\n\n".join(["# Benchmarks", _INTRODUCTION, *parts, _END + _machine()]) + "\n"


def _tables() -> dict[str, str]:
    """The current table of each part in the page."""
    found = {}
    for section in _PAGE.read_text().partition(_END)[0].split(_MARK)[1:]:
        part, _, table = section.partition(" -->\n")
        found[part] = table.strip()
    return found


_MARK, _END = "<!-- part ", "<!-- end -->\n\n"


_INTRODUCTION = """Written by `make bench`, with real processes against the [simulator](simulator.md). Values are
medians, with the range in brackets. Values that are compared were measured in one run; `python -m benchmarks PART`
measures one table. The time from an event to its certificate is measured from the commit of the event to the end of
the verification, without the simulator's own two answers."""


def _machine() -> str:
    with psycopg.connect(postgres_server()) as connection:
        server = connection.info.parameter_status("server_version") or ""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Measured on {os.cpu_count()} shared cores with {gib:.0f} GiB ({platform.system()}, {platform.machine()}), "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version} (WAL, synchronous=FULL), PostgreSQL "
        f"{server.split()[0]} on the same machine."
    )


if __name__ == "__main__":
    sys.exit(main())
