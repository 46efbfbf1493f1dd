"""`make simulation`: a year of 1,000 certificates. Exits with 1 if one expired or was delivered out of order."""

from __future__ import annotations

import sys
import time

from tests.simulation.simulation import Plan, Simulation, quick_folder


def main() -> int:
    """Print the progress, then the table."""
    started = time.monotonic()
    with quick_folder() as folder:
        report = Simulation(
            Plan({90: 500, 64: 300, 45: 190, 6: 10}), folder, lambda text: print(text, flush=True)
        ).run()
    print(report.table())
    print(f"{time.monotonic() - started:.0f} seconds")
    return int(any(row.expired or row.out_of_order for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
