"""gunicorn's configuration with a bug planted in it: an event is answered, and committed half a second later."""

import threading
from runpy import run_path
from unittest.mock import patch

from app.events.ingestion import EventIngestion, IncomingEvent, Outcome

globals().update(run_path("gunicorn.conf.py"))

_record = EventIngestion.record


def _later(ingestion: EventIngestion, event: IncomingEvent) -> Outcome:
    threading.Timer(0.5, _record, (ingestion, event)).start()
    return "queued"


patch.object(EventIngestion, "record", _later).start()
