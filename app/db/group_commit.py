"""Commits that many threads share: what is handed in while one commits goes into the next one, together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db.database import Database

_MOST = 128
# Where several threads are writing, a commit waits for company, as with PostgreSQL's commit_delay.
_DELAY_SECONDS = 0.005


class GroupCommit[Item, Result]:
    """Each `submit` returns after its item is committed. A commit costs the same for one item as for a hundred.

    `write` gets items and the session, and returns a result for each, in their order.
    """

    def __init__(self, database: Database, write: Callable[[Session, Sequence[Item]], Sequence[Result]]) -> None:
        self._database = database
        self._write = write
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def submit(self, item: Item) -> Result:
        """Write and commit one item. Raises what its transaction raised: then nothing of it was committed."""
        if self._thread is None:
            self._start()
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        return future.result()

    def _begin(self) -> None:
        self._waiting: SimpleQueue[tuple[Item, Future[Result]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def _start(self) -> None:
        with self._lock:  # not before the first item: a thread would not survive gunicorn's fork
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shared commits", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        company, pause = False, threading.Event()
        while True:
            batch = [self._waiting.get()]
            if company:
                pause.wait(_DELAY_SECONDS)
            while len(batch) < _MOST:
                try:
                    batch.append(self._waiting.get_nowait())
                except Empty:
                    break
            company = len(batch) > 1
            self._commit(batch)

    def _commit(self, batch: list[tuple[Item, Future[Result]]]) -> None:
        try:
            with self._database.write() as session:
                results = self._write(session, [item for item, _ in batch])
        except BaseException as error:  # noqa: BLE001, whatever it is, somebody waits for it
            if len(batch) == 1 or isinstance(error, OperationalError):  # the database is away for one as for all
                for _, future in batch:
                    future.set_exception(error)
            else:
                for one in batch:  # one item's fault must not be another's
                    self._commit([one])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
