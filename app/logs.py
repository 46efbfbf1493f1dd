"""Structured logs for the whole process, our own and the libraries'."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure_logs(log_format: Literal["json", "text"], level: str) -> None:
    """Send every log line to standard error: JSON, one object a line, or text for people. Times are UTC."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        # A traceback shows no values of variables: they may be keys and tokens.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("urllib3", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Lines:
    """Our own lines go out by one write each. The standard library's handlers would take turns at a lock, which costs
    a web process of many threads a fifth of the events that it can take in.
    """

    def __init__(self, name: str = "certcourier") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write it, now."""
        sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = msg


def _add_logger_name(logger: _Lines, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record: logging.LogRecord | None = line.get("_record")  # of a library
    line["logger"] = record.name if record else logger.name
    return line
