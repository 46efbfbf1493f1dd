"""Jobs on both databases: claimed once, held by a lease, completed by the holder of the token."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from app.db.clock import db_now, move_ahead
from app.db.database import Database
from app.db.models import InstallationState, Job, Periodic
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim, LeaseLostError, Queue
from app.jobs.wakeup import wakeup_for
from app.worker.periodic import enqueue_due

pytestmark = pytest.mark.both_databases


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database, lease_seconds=30, rng=random.Random(1))


def add(database: Database, queue: Queue, **more: object) -> bool:
    with database.write() as session:
        return queue.enqueue(session, JobKind.SEND_NOTIFICATION, {"n": 1}, **more)  # type: ignore[arg-type]


def only(queue: Queue, worker_id: str = "w1") -> Claim:
    (claim,) = queue.claim(10, worker_id=worker_id)
    return claim


def job(database: Database) -> Job:
    with database.read() as session:
        return session.scalars(select(Job)).one()


def let_lease_end(database: Database) -> None:
    with database.write() as session:
        session.execute(update(Job).values(lease_expires_at=db_now(-1)))


def test_a_job_is_claimed_once(database: Database, queue: Queue) -> None:
    add(database, queue)
    claim = only(queue)
    assert (claim.kind, claim.args, claim.attempts) == ("send_notification", {"n": 1}, 1)
    assert queue.claim(10, worker_id="w2") == []


def test_a_job_is_not_claimed_before_its_time(database: Database, queue: Queue) -> None:
    add(database, queue, delay=60)
    assert queue.claim(10, worker_id="w1") == []
    seconds = queue.seconds_until_due()
    assert seconds is not None
    assert 50 < seconds <= 60


def test_the_most_urgent_job_is_claimed_first(database: Database, queue: Queue) -> None:
    with database.write() as session:
        for kind in (JobKind.REFETCH_KEY, JobKind.ADVANCE_ORDER, JobKind.SEND_NOTIFICATION):
            queue.enqueue(session, kind, {"certificate_id": 1})
        queue.enqueue(session, JobKind.RECONCILE, priority=Priority.INTERACTIVE)
    claims = queue.claim(3, worker_id="w1")
    assert [claim.kind for claim in claims] == ["advance_order", "reconcile", "send_notification"]


def test_many_claimers_never_share_a_job(database: Database, queue: Queue) -> None:
    with database.write() as session:
        for number in range(60):
            queue.enqueue(session, JobKind.SEND_NOTIFICATION, {"n": number})

    def claim_all(number: int) -> list[int]:
        mine: list[int] = []
        while claims := queue.claim(3, worker_id=f"w{number}"):
            mine += [claim.args["n"] for claim in claims]
        return mine

    with ThreadPoolExecutor(6) as pool:
        counts = Counter(n for mine in pool.map(claim_all, range(6)) for n in mine)
    assert set(counts.values()) == {1}
    # A claimer that finds all jobs locked goes away: what is left is left for the next one, not lost.
    assert len(counts) + len(queue.claim(100, worker_id="last")) == 60


def test_a_job_of_a_dead_worker_is_claimed_again(database: Database, queue: Queue) -> None:
    add(database, queue)
    first = only(queue)
    let_lease_end(database)
    second = only(queue, "w2")
    assert second.id == first.id
    assert (second.attempts, second.token != first.token) == (2, True)


def test_a_lease_lasts_as_long_as_the_queue_says(database: Database) -> None:
    add(database, Queue(database))
    first = only(Queue(database, lease_seconds=0))
    second = only(Queue(database, lease_seconds=30), "w2")
    assert (second.id, second.attempts) == (first.id, 2)
    assert 25 < (Queue(database).seconds_until_due() or 0) <= 30


def test_a_worker_that_lost_its_lease_changes_nothing(database: Database, queue: Queue) -> None:
    add(database, queue)
    frozen = only(queue)
    let_lease_end(database)
    only(queue, "w2")
    with pytest.raises(LeaseLostError), queue.finishing(frozen) as session:
        session.add(InstallationState(name="effect", value="of the frozen one"))
    with pytest.raises(LeaseLostError):
        queue.retry(frozen, "late")
    with pytest.raises(LeaseLostError):
        queue.snooze(frozen, 1, "late")
    with database.read() as session:
        assert session.get(InstallationState, "effect") is None
    assert job(database).state == "running"


def test_a_jobs_completion_and_its_effects_are_one_commit(database: Database, queue: Queue) -> None:
    add(database, queue)
    claim = only(queue)
    with pytest.raises(RuntimeError), queue.finishing(claim) as session:
        session.add(InstallationState(name="effect", value="half"))
        session.flush()
        raise RuntimeError
    assert job(database).state == "running"
    with queue.finishing(claim) as session:
        session.add(InstallationState(name="effect", value="whole"))
    assert job(database).state == "done"
    with database.read() as session:
        assert session.get_one(InstallationState, "effect").value == "whole"


def test_a_heartbeat_keeps_the_lease(database: Database, queue: Queue) -> None:
    add(database, queue)
    claim = only(queue)
    let_lease_end(database)
    queue.heartbeat([claim.token])
    assert queue.claim(1, worker_id="w2") == []


def test_a_retry_waits_longer_each_time_up_to_an_hour(queue: Queue) -> None:
    pauses = [queue.retry_delay(attempts) for attempts in range(1, 30)]
    assert 2.5 <= pauses[0] <= 5
    assert 40 <= pauses[4] <= 80
    assert all(1800 <= pause <= 3600 for pause in pauses[12:])


def test_a_snooze_counts_no_attempt(database: Database, queue: Queue) -> None:
    add(database, queue)
    queue.snooze(only(queue), 60, "not yet")
    assert (job(database).attempts, job(database).snoozes, job(database).last_error) == (0, 1, "not yet")


def test_a_key_admits_one_unfinished_job(database: Database, queue: Queue) -> None:
    assert add(database, queue, key="k")
    assert not add(database, queue, key="k")
    with queue.finishing(only(queue)):
        pass
    assert add(database, queue, key="k")


def test_an_enqueue_that_is_rolled_back_leaves_no_job(database: Database, queue: Queue) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        queue.enqueue(session, JobKind.SEND_NOTIFICATION)
        raise RuntimeError
    assert queue.seconds_until_due() is None


def test_a_dead_job_stays_visible_until_it_is_retried(database: Database, queue: Queue) -> None:
    add(database, queue)
    claim = only(queue)
    with database.write() as session:
        queue.mark_dead(session, claim, "hopeless")
    assert (job(database).state, job(database).last_error) == ("dead", "hopeless")
    assert queue.claim(1, worker_id="w1") == []
    with database.write() as session:
        assert queue.requeue(session, claim.id)
        assert not queue.requeue(session, claim.id)
    assert only(queue).attempts == 1


def test_a_cancelled_job_is_taken_from_its_worker(database: Database, queue: Queue) -> None:
    add(database, queue)
    claim = only(queue)
    with database.write() as session:
        assert queue.cancel(session, claim.id)
    with pytest.raises(LeaseLostError), queue.finishing(claim):
        pass


def test_a_job_enqueued_as_claimed_is_claimed_when_its_lease_expires(database: Database, queue: Queue) -> None:
    with database.write() as session:
        claim = queue.enqueue_claimed(session, JobKind.ADVANCE_ORDER, {"order_id": "x"}, lease_seconds=20)
    assert queue.claim(1, worker_id="w1") == []
    let_lease_end(database)
    assert only(queue).id == claim.id


def test_a_released_job_is_claimed_immediately(database: Database, queue: Queue) -> None:
    with database.write() as session:
        claim = queue.enqueue_claimed(session, JobKind.ADVANCE_ORDER, {}, lease_seconds=20)
    with database.write() as session:
        queue.release(session, claim)
    assert only(queue).id == claim.id


def test_a_slot_of_a_periodic_job_is_taken_once(database: Database, queue: Queue) -> None:
    def start(_: int) -> int:
        with database.write() as session:
            return len(enqueue_due(session, queue, {JobKind.PRUNE: 3600}))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(start, range(8))) == 1
    with database.write() as session:  # the next hour
        session.execute(update(Periodic).values(slot=Periodic.slot - 1))
        assert enqueue_due(session, queue, {JobKind.PRUNE: 3600}) == [JobKind.PRUNE]


def test_periodic_jobs_continue_after_the_databases_clock_was_ahead(database: Database) -> None:
    queue = Queue(database)
    move_ahead(30 * 86400)
    try:
        with database.write() as session:
            assert enqueue_due(session, queue, {JobKind.PRUNE: 60}) == [JobKind.PRUNE]
    finally:
        move_ahead(-30 * 86400)
    with database.write() as session:
        assert enqueue_due(session, queue, {JobKind.PRUNE: 60}) == [JobKind.PRUNE]
        assert enqueue_due(session, queue, {JobKind.PRUNE: 60}) == []
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1  # the first job has not even started
    assert (queue.seconds_until_due() or 0) <= 3600


def test_an_enqueue_wakes_the_workers(database: Database, queue: Queue) -> None:
    wakeup = wakeup_for(database)
    wakeup.wait(0.1)
    assert not wakeup.wait(0.1)
    woken = threading.Event()

    def listen() -> None:
        if wakeup.wait(20):
            woken.set()

    listener = threading.Thread(target=listen)
    listener.start()
    add(database, queue)
    listener.join()
    wakeup.close()
    assert woken.is_set()


def test_an_enqueue_that_is_rolled_back_wakes_no_worker(database: Database, queue: Queue) -> None:
    wakeup = wakeup_for(database)
    wakeup.wait(0.1)
    with pytest.raises(RuntimeError), database.write() as session:
        queue.enqueue(session, JobKind.SEND_NOTIFICATION)
        raise RuntimeError
    assert not wakeup.wait(0.2)
    wakeup.close()
