"""The short form of the simulated year: a few weeks of 40 certificates."""

from __future__ import annotations

import pytest

from tests.simulation.simulation import Plan, Simulation, quick_folder


@pytest.mark.timeout(600)
def test_weeks_of_renewals_leave_no_certificate_expired_and_none_out_of_order() -> None:
    certificates: dict[float, int] = {90: 10, 64: 10, 45: 10, 6: 10}
    plan = Plan(certificates, 70, no_worker=(20, 21), no_web=(40, 41), steps_of_a_day=2, reconcile_percent=0.5)
    with quick_folder() as folder:
        report = Simulation(plan, folder).run()
    print(report.table())
    assert [row.certificates for row in report.rows] == [10, 10, 10, 10]
    assert [(row.expired, row.out_of_order) for row in report.rows] == [(0, 0)] * 4
    assert all(row.renewals >= row.certificates and row.lowest > 0 for row in report.rows)
    assert report.thrown["event-dropped"] > 0
    assert report.thrown["certificate-failed"] > 0
    assert report.refused == 0
