"""What gunicorn itself has to say, without what a client wrote: a path of ours can hold the webhook's secret."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

_INVALID = "Invalid request from ip="
_FAILED = "Error handling request"


class RedactingLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn quotes a request that it cannot parse, and names the URL of one that failed outside of our code."""

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Say from where an invalid request came and nothing of it."""
        super().warning(msg.partition(": ")[0] if msg.startswith(_INVALID) else msg, *args, **kwargs)

    def exception(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Show the traceback of a request without its URL."""
        if str(msg).startswith(_FAILED):
            super().exception(_FAILED, **kwargs)
        else:
            super().exception(msg, *args, **kwargs)
