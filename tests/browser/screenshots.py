"""`make screenshots`: the pictures of the documentation, from a platform that lives in the simulator."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from app.db.database import Database
from tests.browser import demo
from tests.browser.chromium import chromium, find_chromium
from tests.support import databases
from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator
from tests.support.stack import ROOT, Stack

IMAGES = ROOT / "docs" / "images"
_SIZE = {"width": 1280, "height": 860}


def main() -> int:
    """Write them into docs/images."""
    program = find_chromium()
    if program is None:
        sys.exit("the screenshots need Chromium: install Debian's package `chromium`")
    IMAGES.mkdir(exist_ok=True)
    folder = Path(tempfile.gettempdir(), "platform")  # it is seen in the pictures
    folder.mkdir()
    try:
        _make(program, folder)
    finally:
        shutil.rmtree(folder)
    return 0


def _make(program: str, folder: Path) -> None:
    options = {"any_domain": True, "issue_delay": 0.1, "allow_http_webhooks": True}
    with chromium(program) as browser, Simulator(token=TOKEN, **options) as simulator:
        stack = demo.start(databases.new_sqlite_database(folder), folder, simulator)
        try:
            _take_all(browser, stack)
        finally:
            stack.stop()


def _take_all(browser: Browser, stack: Stack) -> None:
    number = demo.populate(stack, names=("www", "shop", "api"))
    database = Database(stack.environment["DATABASE_URL"])
    demo.fail_delivery(database)
    demo.spread_lifetimes(database)
    database.close()
    token = stack.flask("tokens", "create", "Ann", "--scope", "admin").strip()
    for scheme, path, name in (
        ("light", "", "dashboard-light"),
        ("dark", "", "dashboard-dark"),
        ("light", "/certificates", "dashboard-certificates"),
        ("light", f"/certificates/{number}", "dashboard-certificate"),
    ):
        page = browser.new_page(viewport=_SIZE, color_scheme="dark" if scheme == "dark" else "light")  # type: ignore[arg-type]
        _sign_in(page, stack, token)
        page.goto(f"{stack.url}/dashboard{path}")
        file = IMAGES / f"{name}.png"
        page.screenshot(path=file)
        _shrink(file)
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} KiB")
        page.close()


def _sign_in(page: Page, stack: Stack, token: str) -> None:
    page.goto(f"{stack.url}/dashboard/sign-in")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def _shrink(file: Path) -> None:
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--skip-if-larger", "--ext", ".png", str(file)], check=False)
    if shutil.which("optipng"):
        subprocess.run(["optipng", "-quiet", "-o2", str(file)], check=True)


if __name__ == "__main__":
    sys.exit(main())
