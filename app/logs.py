"""Structured logging for the whole process, including the libraries."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure_logs(log_format: Literal["json", "text"], level: str) -> None:
    """Write all logs to standard error, as JSON (one object for each line) or as text. Times are UTC."""
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
        # Plain tracebacks show no values of variables, which may be keys and tokens.
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
    """Writes each of our own lines in one call. The lock of the standard library's handlers would cost a web process
    with many threads a fifth of its event throughput.
    """

    def __init__(self, name: str = "certcourier") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line immediately."""
        sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = msg


def _add_logger_name(logger: _Lines, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record: logging.LogRecord | None = line.get("_record")  # set for a library's line
    line["logger"] = record.name if record else logger.name
    return line
