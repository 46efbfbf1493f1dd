"""Group commit: items that threads submit during one commit are written together in the next."""

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
# While several threads write, a commit waits for more items, as with PostgreSQL's commit_delay.
_DELAY_SECONDS = 0.005


class GroupCommit[Item, Result]:
    """Each `submit` returns after its item is committed. A commit costs the same for one item as for a hundred.

    `write` receives the session and the items, and returns a result for each, in order.
    """

    def __init__(self, database: Database, write: Callable[[Session, Sequence[Item]], Sequence[Result]]) -> None:
        self._database = database
        self._write = write
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def submit(self, item: Item) -> Result:
        """Write and commit one item. If its transaction fails, raises the error; nothing of the item was committed."""
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
        with self._lock:  # at the first item, since a thread would not survive gunicorn's fork
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="group commit", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        is_busy, pause = False, threading.Event()
        while True:
            batch = [self._waiting.get()]
            if is_busy:
                pause.wait(_DELAY_SECONDS)
            while len(batch) < _MOST:
                try:
                    batch.append(self._waiting.get_nowait())
                except Empty:
                    break
            is_busy = len(batch) > 1
            self._commit(batch)

    def _commit(self, batch: list[tuple[Item, Future[Result]]]) -> None:
        try:
            with self._database.write() as session:
                results = self._write(session, [item for item, _ in batch])
        except BaseException as error:  # noqa: BLE001, the submitting threads wait for the outcome
            if len(batch) == 1 or isinstance(error, OperationalError):  # the database is unavailable for every item
                for _, future in batch:
                    future.set_exception(error)
            else:
                for entry in batch:  # an item that fails must not fail the others
                    self._commit([entry])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
