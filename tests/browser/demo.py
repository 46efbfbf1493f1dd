"""A platform with customers, for demonstration: real orders through the simulator, some of which fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select, update

from app.db.database import Database
from app.db.models import Certificate, Delivery, Job
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until

CUSTOMERS = (
    "bergkristall.example", "northwind-shop.example", "cafe-lumiere.example", "atelier-vogt.example",
    "harbour-cycles.example", "tessera-books.example", "olive-and-thyme.example", "studio-kanto.example",
    "meridian-maps.example", "foxglove-garden.example", "brightside-dental.example", "pixel-foundry.example",
    "riverstone-yoga.example", "quanta-labs.example", "velvet-bakery.example", "summit-guides.example",
)  # fmt: skip
FAILED, BLOCKED = "granite-hotels.example", "papermill.example"
_DESTINATIONS = """
[[destination]]
name = "edge"
kind = "files"
path = "{folder}/edge"

[[destination]]
name = "archive"
kind = "files"
path = "{folder}/archive"
"""


def start(database_url: str, folder: Path, simulator: Simulator) -> Stack:
    """Web and worker with two destinations, of which `archive` cannot be written to for one customer."""
    (folder / "edge").mkdir()
    (folder / "archive").mkdir()
    file = folder / "destinations.toml"
    file.write_text(_DESTINATIONS.format(folder=folder))
    stack = Stack(database_url, folder, simulator, destinations_file=file)
    stack.start()
    return stack


def populate(stack: Stack, customers: tuple[str, ...] = CUSTOMERS, names: tuple[str, ...] = ("www",)) -> int:
    """Order these names, let one order and one delivery fail; the ID of a certificate with a timeline."""
    (stack.folder / "archive" / f"www.{BLOCKED}").write_text("a file where a folder should be")
    stack.simulator.outcome(FAILED, "failed")
    for domain in (FAILED, BLOCKED):
        stack.order(domain)
    ids = [stack.order(domain, name=name)["certificate_id"] for name in names for domain in customers]
    for number in ids:
        stack.wait_delivered(number, 60)
    return int(ids[0])


def fail_delivery(database: Database) -> int:
    """Let the failing delivery fail permanently, which would take days. The job's ID."""

    def failing() -> int | None:
        with database.read() as session:
            query = select(Job.id).where(Job.kind == "deliver", Job.last_error.is_not(None), Job.state == "ready")
            return session.scalar(query)

    number = wait_until(failing, "a delivery that fails", 60)
    assert number is not None
    with database.write() as session:
        dead = update(Job).where(Job.id == number)
        session.execute(dead.values(state="dead", finished_at=datetime.now(UTC), attempts=20, key=None))
        session.execute(update(Delivery).where(Delivery.state == "failing").values(state="failed"))
    return number


def spread_lifetimes(database: Database) -> None:
    """As if the certificates had been issued over two months, so that a renewal is expected every few days."""
    with database.write() as session:
        rows = session.scalars(select(Certificate).where(Certificate.fetched_at.is_not(None)).order_by(Certificate.id))
        for at, row in enumerate(rows):
            if row.not_before is not None and row.not_after is not None:
                ago = timedelta(days=(at * 17) % 59, hours=at)
                row.not_before, row.not_after = row.not_before - ago, row.not_after - ago
