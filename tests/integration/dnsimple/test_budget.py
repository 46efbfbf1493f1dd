"""One budget for all processes: never exceeded, corrected by DNSimple's headers, blocked by 429 and 401."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from app.db.clock import db_now
from app.db.database import Database
from app.db.models import Quota
from app.dnsimple.adapter import DNSimple, Purpose
from app.dnsimple.budget import QuotaExhaustedError, RateBudget, Shares
from app.dnsimple.budgeted_calls import Answer, BudgetedCalls, RateLimit
from app.dnsimple.errors import (
    AuthenticationError,
    DNSimpleError,
    NotFoundError,
    NotIssuedYetError,
    RateLimitedError,
)
from tests.support.harness import ACCOUNT, TOKEN
from tests.support.simulator_process import Simulator

pytestmark = pytest.mark.both_databases

TEMPLATE = "/{account}/domains"


def keeper(database: Database, token: str = TOKEN, **shares: float) -> RateBudget:
    return RateBudget(database, account_id=ACCOUNT, token=token, shares=Shares(**shares), rng=random.Random(1))


def answer(limit: int | None = None, remaining: int = 0, seconds_left: float = 3600.0, status: int = 200) -> Answer:
    seen = RateLimit(limit, remaining, seconds_left) if limit is not None else None
    return Answer("GET", TEMPLATE, status, 0.1, seen, None)


def call(
    kept: RateBudget,
    answer: Answer,
    error: DNSimpleError | None = None,
    purpose: Purpose = Purpose.INTERACTIVE,
) -> None:
    kept.acquire(purpose)
    kept.update(purpose, answer, error)


def row(database: Database) -> Quota:
    with database.read() as session:
        return session.get_one(Quota, ACCOUNT)


def change(database: Database, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(Quota).values(**values))


def admitted(kept: RateBudget, purpose: Purpose, most: int = 1000) -> int:
    for count in range(most):
        try:
            kept.acquire(purpose)
        except QuotaExhaustedError:
            return count
    return most


def test_the_first_response_sets_the_limit(database: Database) -> None:
    call(keeper(database), answer(4800, 4799))
    assert (row(database).call_limit, row(database).remaining) == (4800, 4799)


def test_calls_of_other_programs_count(database: Database) -> None:
    kept = keeper(database)
    call(kept, answer(100, 99))
    call(kept, answer(100, 40))
    assert row(database).remaining == 40
    call(kept, answer(100, 80))  # an answer that was overtaken
    assert row(database).remaining == 39


def test_calls_in_flight_are_not_available_again(database: Database) -> None:
    kept = keeper(database)
    call(kept, answer(100, 99))
    for _ in range(10):
        kept.acquire(Purpose.INTERACTIVE)
    kept.update(Purpose.INTERACTIVE, answer(100, 50), None)
    assert row(database).remaining == 50 - 9


@pytest.mark.parametrize(
    "nonsense", [answer(0, 0), answer(100, 101), answer(100, 5, -5), answer(100, 5, 10**9), answer(None)]
)
def test_implausible_headers_change_nothing(database: Database, nonsense: Answer) -> None:
    kept = keeper(database)
    call(kept, answer(100, 99))
    call(kept, nonsense)
    assert (row(database).call_limit, row(database).remaining) == (100, 98)


def test_the_reserve_is_for_interactive_orders(database: Database) -> None:
    kept = keeper(database, reserve=10)
    call(kept, answer(100, 50))
    background = admitted(kept, Purpose.BACKGROUND)
    assert background in {40, 41}  # the reserve shrinks with time: by one call once some seconds have passed
    assert admitted(kept, Purpose.INTERACTIVE) == 50 - background


def test_the_reserve_shrinks_with_the_time_left(database: Database) -> None:
    kept = keeper(database, reserve=10)
    call(kept, answer(1000, 999))
    call(kept, answer(1000, 60))
    with pytest.raises(QuotaExhaustedError, match="reserved for orders") as caught:
        kept.acquire(Purpose.BACKGROUND)
    assert 0.4 * 3600 - 10 <= (caught.value.retry_after or 0) <= 3600 + 60  # 60 are more than a tenth of 60 % of it
    change(database, reset_at=db_now(1090))
    assert admitted(kept, Purpose.BACKGROUND) == 30
    change(database, reset_at=db_now(20))
    assert admitted(kept, Purpose.BACKGROUND) == 30


def test_unverified_events_have_a_small_share_that_only_forged_ones_use_up(database: Database) -> None:
    kept = keeper(database, unknown=5, reserve=0)
    call(kept, answer(100, 99))
    for _ in range(20):
        call(kept, answer(100, 90), purpose=Purpose.UNVERIFIED_EVENT)
    for _ in range(5):
        call(kept, answer(100, 70, status=404), NotFoundError("no", status=404), Purpose.UNVERIFIED_EVENT)
    with pytest.raises(QuotaExhaustedError, match="unknown"):
        kept.acquire(Purpose.UNVERIFIED_EVENT)
    kept.acquire(Purpose.BACKGROUND)


def test_a_repeat_check_is_never_free(database: Database) -> None:
    kept = keeper(database, unknown=5, reserve=0)
    call(kept, answer(100, 99))
    for _ in range(5):
        call(kept, answer(100, 90), purpose=Purpose.REPEAT_CHECK)
    for purpose in (Purpose.REPEAT_CHECK, Purpose.UNVERIFIED_EVENT):
        with pytest.raises(QuotaExhaustedError, match="unknown"):
            kept.acquire(purpose)
    kept.acquire(Purpose.BACKGROUND)


def test_an_unverified_certificate_that_is_not_issued_is_not_free(database: Database) -> None:
    kept = keeper(database, unknown=5, reserve=0)
    call(kept, answer(100, 99))
    for _ in range(5):
        call(kept, answer(100, 90, status=428), NotIssuedYetError("not yet", status=428), Purpose.UNVERIFIED_EVENT)
    with pytest.raises(QuotaExhaustedError, match="unknown"):
        kept.acquire(Purpose.UNVERIFIED_EVENT)


def test_calls_are_reserved_all_or_none(database: Database) -> None:
    kept = keeper(database, reserve=0)
    call(kept, answer(100, 3))
    calls_budget = BudgetedCalls(kept)
    with calls_budget.reserve(2) as pair:
        pair.begin()
        pair.begin()
    with pytest.raises(QuotaExhaustedError), calls_budget.reserve(2):
        raise AssertionError("one call is left")
    assert admitted(kept, Purpose.BACKGROUND) == 1, "what was not sent costs nothing"


def test_reserved_calls_that_are_not_sent_are_released(database: Database) -> None:
    kept = keeper(database, reserve=0)
    call(kept, answer(100, 10))
    with BudgetedCalls(kept).with_purpose(Purpose.UNVERIFIED_EVENT).reserve(2) as pair:
        pair.begin()
        pair.end(answer(100, 9), None)
    assert admitted(kept, Purpose.BACKGROUND) == 9
    with database.read() as session:
        assert session.get_one(Quota, ACCOUNT).unknown_left == 5


def test_a_new_window_is_a_new_budget(database: Database) -> None:
    kept = keeper(database, reserve=0)
    call(kept, answer(100, 1))
    assert admitted(kept, Purpose.BACKGROUND) == 1
    change(database, reset_at=db_now(-1))
    assert admitted(kept, Purpose.BACKGROUND) == 100


def test_waiting_lasts_until_the_reset_and_is_spread(database: Database) -> None:
    kept = keeper(database)
    call(kept, answer(100, 99))
    call(kept, answer(100, 0, 600.0))
    pauses = []
    for _ in range(20):
        with pytest.raises(QuotaExhaustedError) as caught:
            kept.acquire(Purpose.INTERACTIVE)
        pauses.append(caught.value.retry_after or 0)
    assert min(pauses) >= 600
    assert max(pauses) <= 600 + 62
    assert max(pauses) - min(pauses) > 20


def test_a_429_blocks_all_calls_until_the_announced_reset(database: Database) -> None:
    call(keeper(database), answer(100, 99))
    call(keeper(database), answer(100, 98, status=429), RateLimitedError("quota exceeded", retry_after=600))
    with pytest.raises(QuotaExhaustedError, match="quota exceeded") as caught:
        keeper(database, token="another").acquire(Purpose.INTERACTIVE)
    assert (caught.value.retry_after or 0) >= 599
    change(database, blocked_until=db_now(-1))
    keeper(database).acquire(Purpose.INTERACTIVE)


def test_an_endpoints_own_limit_blocks_no_other_calls(database: Database) -> None:
    kept = keeper(database)
    error = RateLimitedError("endpoint x quota exceeded", retry_after=600, account_wide=False)
    call(kept, answer(100, 98, status=429), error)
    kept.acquire(Purpose.BACKGROUND)


def test_a_401_blocks_calls_with_that_token_only(database: Database) -> None:
    call(keeper(database), answer(100, 99))
    call(keeper(database), answer(None, status=401), AuthenticationError("Authentication failed", status=401))
    with pytest.raises(QuotaExhaustedError, match="token rejected"):
        keeper(database).acquire(Purpose.INTERACTIVE)
    renewed = keeper(database, token="a new one")
    call(renewed, answer(100, 90))
    assert TOKEN not in str(vars(row(database)))
    # After a while one call tries the old token again, and a success sets it free.
    change(database, blocked_until=db_now(-1))
    call(keeper(database), answer(100, 80))
    assert row(database).blocked_reason is None


def test_a_401_does_not_end_a_block_of_all_calls(database: Database) -> None:
    kept = keeper(database)
    kept.acquire(Purpose.INTERACTIVE)  # on its way, with a token that is rejected
    call(keeper(database, token="another"), answer(None, status=429), RateLimitedError("exceeded", retry_after=600))
    kept.update(Purpose.INTERACTIVE, answer(None, status=401), AuthenticationError("Authentication failed", status=401))
    for token in (TOKEN, "another"):
        with pytest.raises(QuotaExhaustedError, match="quota exceeded"):
            keeper(database, token=token).acquire(Purpose.INTERACTIVE)


@pytest.fixture(params=[40])
def limited(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with Simulator(token=TOKEN, any_domain=True, rate_limit=request.param, latency=0.005) as simulator:
        yield simulator


def test_many_threads_of_several_processes_never_exceed_it(database: Database, limited: Simulator) -> None:
    """Two keepers on one database stand for two processes; another program uses the account as well."""
    clients = [
        DNSimple(
            account_id=ACCOUNT, token=TOKEN, base_url=limited.url, pool_size=16, budget=keeper(database, reserve=0)
        )
        for _ in range(2)
    ]
    other_program = DNSimple(account_id=ACCOUNT, token=TOKEN, base_url=limited.url)
    clients[0].domain("a.example")

    def work(number: int) -> str:
        if number == 20:
            for _ in range(5):
                other_program.domain("a.example")
        try:
            clients[number % 2].domain("a.example")
        except QuotaExhaustedError:
            return "waits"
        return "done"

    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(work, range(80)))
    statuses = [made["status"] for made in limited.calls()]
    assert 429 not in statuses
    assert statuses.count(200) <= 40
    assert outcomes.count("waits") == 80 + 1 + 5 - len(statuses)
    # Most of it was turned into work: what was on its way when the other_program was noticed is all that may be left.
    assert len(statuses) >= 40 - 12
