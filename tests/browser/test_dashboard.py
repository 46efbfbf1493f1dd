"""The dashboard in a real Chromium, against real gunicorn, worker and simulator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from app.db.database import Database
from app.db.models import Job
from tests.browser import demo
from tests.browser.chromium import chromium, find_chromium
from tests.support import databases
from tests.support.harness import TOKEN
from tests.support.simulator_process import Simulator
from tests.support.stack import Stack

PAGES = ("", "/certificates", "/orders", "/events", "/jobs", "/destinations", "/dnsimple", "/audit")
_RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: install Debian's package `chromium`")
    with chromium(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Some customers, one of whose orders has failed and one of whose deliveries fails."""
    folder = tmp_path_factory.mktemp("dashboard")
    with Simulator(token=TOKEN, any_domain=True, issue_delay=0.1, allow_http_webhooks=True) as simulator:
        stack = demo.start(databases.new_sqlite_database(folder), folder, simulator)
        try:
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[Database]:
    opened = Database(stack.environment["DATABASE_URL"])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def certificate_id(stack: Stack, database: Database) -> int:
    number = demo.populate(stack, demo.CUSTOMERS[:2])
    demo.fail_delivery(database)
    return number


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    return stack.flask("tokens", "create", "Ann", "--scope", "admin").strip()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh profile whose console stays silent: no script error, nothing blocked by the policy."""
    context = browser.new_context()
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page
    context.close()
    assert messages == []


def sign_in(page: Page, stack: Stack, token: str) -> None:
    page.goto(f"{stack.url}/dashboard")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def violations(page: Page) -> list[str]:
    found: Any = Axe().run(page, options=_RULES).response
    assert found["passes"], "axe checked nothing"
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_violates_wcag_2_a_and_aa(
    page: Page, stack: Stack, token: str, certificate_id: int, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{stack.url}/dashboard/sign-in")
    assert violations(page) == []
    sign_in(page, stack, token)
    order = page.goto(f"{stack.url}/dashboard/orders")
    assert order is not None
    first = page.locator("tbody th a").first.get_attribute("href")
    assert first is not None
    for path in (*(f"/dashboard{one}" for one in PAGES), f"/dashboard/certificates/{certificate_id}", first):
        page.goto(stack.url + path)
        assert violations(page) == [], (path, scheme)


def test_a_narrow_page_does_not_scroll_sideways(page: Page, stack: Stack, token: str, certificate_id: int) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    sign_in(page, stack, token)
    for path in (*PAGES, f"/certificates/{certificate_id}"):
        page.goto(f"{stack.url}/dashboard{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_signing_in_and_retrying_a_job_need_only_the_keyboard(
    page: Page, stack: Stack, database: Database, token: str, certificate_id: int
) -> None:
    assert certificate_id
    job = Job(kind="prune", args={}, state="dead", finished_at=datetime.now(UTC), last_error="by hand")
    with database.write() as session:
        session.add(job)
        session.flush()
    page.goto(f"{stack.url}/dashboard/jobs")
    tab_to(page, "token")
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip() == f"Retry job {job.id}":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("The job is queued again.")


def test_the_api_reference_opens_with_any_user_and_the_token_as_the_password(
    browser: Browser, stack: Stack, token: str
) -> None:
    context = browser.new_context(http_credentials={"username": "anybody", "password": token})
    page = context.new_page()
    sign_in(page, stack, token)
    page.get_by_role("link", name="API reference").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Certcourier")
    assert page.url == f"{stack.url}/docs"
    context.close()


def test_a_kind_of_job_does_not_break_within_its_name(page: Page, stack: Stack, token: str, database: Database) -> None:
    error = "a long last error that takes all the room there is " * 5
    with database.write() as session:
        session.add(
            Job(kind="register_webhook", args={}, state="dead", finished_at=datetime.now(UTC), last_error=error)
        )
    page.set_viewport_size({"width": 700, "height": 700})
    sign_in(page, stack, token)
    page.goto(f"{stack.url}/dashboard/jobs")
    kind = page.get_by_text("register_webhook", exact=True).first
    assert kind.evaluate("one => one.getClientRects().length") == 1
    page.goto(f"{stack.url}/dashboard/destinations")
    gap = "document.querySelector('#unsuccessful').closest('section').getBoundingClientRect().top"
    gap += " - document.querySelector('.scroll').getBoundingClientRect().bottom"
    assert page.evaluate(gap) > 15, "the second table keeps its distance"


def tab_to(page: Page, identifier: str) -> None:
    for _ in range(50):
        if page.evaluate("document.activeElement.id") == identifier:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach #{identifier}")


def test_everything_works_without_script(browser: Browser, stack: Stack, token: str, certificate_id: int) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in(page, stack, token)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Certificates").click()
    page.get_by_label("Name, ID or fingerprint").fill(demo.CUSTOMERS[0][:6])
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name=f"www.{demo.CUSTOMERS[0]}").click()
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    page.get_by_role("button", name="Redeliver to edge").click()
    expect(page.get_by_role("status")).to_contain_text("The delivery is queued again.")
    assert page.url.startswith(f"{stack.url}/dashboard/certificates/{certificate_id}")
    expect(page.get_by_role("button", name="Pause updates")).to_be_hidden()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to Certcourier")
    context.close()


def test_a_page_updates_itself_unless_it_is_paused(
    page: Page, stack: Stack, database: Database, token: str, certificate_id: int
) -> None:
    assert certificate_id
    page.clock.install()
    sign_in(page, stack, token)
    page.goto(f"{stack.url}/dashboard/jobs")
    numbers = itertools.count(1)

    def another() -> str:
        kind = f"appears-{next(numbers)}"
        with database.write() as session:
            session.add(Job(kind=kind, args={}, state="dead", finished_at=datetime.now(UTC), last_error="by hand"))
        return kind

    kind = another()
    page.clock.run_for(6000)
    expect(page.get_by_role("rowheader", name=kind)).to_be_visible()
    pause = page.get_by_role("button", name="Pause updates")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.clock.run_for(20_000)
    assert requests == []


def test_a_failing_delivery_is_on_the_overview_with_its_reason(
    page: Page, stack: Stack, token: str, certificate_id: int
) -> None:
    assert certificate_id
    sign_in(page, stack, token)
    alerts = page.get_by_role("region", name="Alerts")
    expect(alerts.get_by_text("failed permanently").first).to_be_visible()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Destinations").click()
    expect(page.get_by_role("region", name="Unsuccessful deliveries").first).to_contain_text(f"www.{demo.BLOCKED}")


def test_the_session_ends_in_the_browser_when_its_token_is_revoked(page: Page, stack: Stack) -> None:
    own = stack.flask("tokens", "create", "Eve", "--scope", "read").strip()
    sign_in(page, stack, own)
    listed = next(line for line in stack.flask("tokens", "list").splitlines() if " Eve " in line)
    stack.flask("tokens", "revoke", listed.split()[0])
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to Certcourier")
