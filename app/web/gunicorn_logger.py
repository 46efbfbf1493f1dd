"""gunicorn's own log messages without client data: a path can hold the webhook's secret."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

_INVALID = "Invalid request from ip="
_FAILED = "Error handling request"


class RedactingLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn quotes requests that it cannot parse, and logs the URL of requests that fail outside the application."""

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log the address that sent an invalid request, without the request."""
        super().warning(msg.partition(": ")[0] if msg.startswith(_INVALID) else msg, *args, **kwargs)

    def exception(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log the traceback of a failed request without its URL."""
        if str(msg).startswith(_FAILED):
            super().exception(_FAILED, **kwargs)
        else:
            super().exception(msg, *args, **kwargs)
