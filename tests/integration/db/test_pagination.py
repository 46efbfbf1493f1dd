"""Pages of rows: complete, without repetition, and with cursors that belong to one order alone."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from app.db.models import Job
from app.db.pagination import paginate
from app.domain_names import InvalidFieldError
from app.services import Services

ORDER = {"kind": Job.kind, "id": Job.id}


@pytest.fixture
def job_ids(services: Services) -> list[int]:
    """Jobs of three kinds, the IDs in the order of kind and ID."""
    with services.database.write() as session:
        jobs = [Job(kind=f"kind{number % 3}", args={}, state="done") for number in range(8)]
        session.add_all(jobs)
        session.flush()
        return [job.id for job in sorted(jobs, key=lambda job: (job.kind, job.id))]


@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("limit", [1, 3, 8, 9])
def test_pages_contain_every_row_once_in_order(
    services: Services, job_ids: list[int], limit: int, descending: bool
) -> None:
    listed: list[int] = []
    cursor = None
    with services.database.read() as session:
        while True:
            page = paginate(session, select(Job), ORDER, cursor=cursor, limit=limit, descending=descending)
            assert len(page.rows) <= limit
            listed += [job.id for job in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert listed == (job_ids[::-1] if descending else job_ids)


def test_a_cursor_of_another_order_is_refused(services: Services, job_ids: list[int]) -> None:
    with services.database.read() as session:
        by_id = paginate(session, select(Job), {"id": Job.id}, cursor=None, limit=len(job_ids) - 1)
        with pytest.raises(InvalidFieldError, match="cursor"):
            paginate(session, select(Job), ORDER, cursor=by_id.next_cursor, limit=1)
