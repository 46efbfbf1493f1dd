"""gunicorn's configuration with a bug planted in it: an event is answered, and committed half a second later."""

import threading
from runpy import run_path
from unittest.mock import patch

from app.events.ingestion import IncomingEvent, Intake, Outcome

globals().update(run_path("gunicorn.conf.py"))

_record = Intake.record


def _later(intake: Intake, event: IncomingEvent) -> Outcome:
    threading.Timer(0.5, _record, (intake, event)).start()
    return "queued"


patch.object(Intake, "record", _later).start()
