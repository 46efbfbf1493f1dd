"""Log lines: whole, and in one format for our own and the libraries'."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog

from app.logs import configure_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    structlog.contextvars.clear_contextvars()  # a request of another test may have left its ID
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_our_lines_and_those_of_libraries_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("certcourier.worker").info("job done", job_id=1)
        logging.getLogger("library").warning("slow: %d s", 3)
    ours, library = written(capsys)
    assert (ours["event"], ours["logger"], ours["level"], ours["job_id"]) == (
        "job done",
        "certcourier.worker",
        "info",
        1,
    )
    assert (library["event"], library["logger"], library["level"]) == ("slow: 3 s", "library", "warning")
    assert ours["request_id"] == library["request_id"] == "r1"
    assert ours["timestamp"].endswith("Z")
    assert library["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "warning")
    log = structlog.get_logger("certcourier")
    log.info("no")
    log.log(logging.INFO, "no")
    log.error("yes")
    assert [line["event"] for line in written(capsys)] == ["yes"]


def test_an_unexpected_error_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")
    error = ValueError("odd")
    structlog.get_logger("certcourier").exception("job failed unexpectedly", exc_info=error)
    (line,) = written(capsys)
    assert line["level"] == "error"
    assert line["exception"].endswith("ValueError: odd")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_values(capsys: pytest.CaptureFixture[str], log_format: Literal["json", "text"]) -> None:
    configure_logs(log_format, "info")

    def use(secret: str) -> None:
        document = {"private_key": secret}
        raise LookupError(f"a key of {len(document)} entries is not to be used")

    try:
        use("".join(["MHcC", "AQEEI", "not-a-real-key-but-as-long-as-one-and-", "looked", "-for-in-pieces-of-it"]))
    except LookupError as error:
        structlog.get_logger("certcourier").exception("job failed unexpectedly", exc_info=error)
    output = capsys.readouterr().err
    assert "LookupError: a key of 1 entries" in output
    assert "MHcCAQ" not in output
    assert "looked-for" not in output.replace("\n", "")


def test_lines_of_many_threads_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")
    log = structlog.get_logger("certcourier")
    begin = threading.Barrier(8)

    def write(thread: int) -> None:
        begin.wait()
        for number in range(200):
            log.info("event received", thread=thread, number=number, padding="x" * 300)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert {(line["thread"], line["number"]) for line in lines} == {(t, n) for t in range(8) for n in range(200)}
    assert len(lines) == 1600


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("text", "info")
    structlog.get_logger("certcourier.web").info("request", status=200)
    assert "[info     ] request                        [certcourier.web] status=200" in capsys.readouterr().err
