"""A hook whose worker is killed while it runs: made again by another worker, and nothing is missed."""

from __future__ import annotations

from pathlib import Path

from tests.support.simulator_process import Simulator
from tests.support.stack import Stack, wait_until


def test_a_hook_that_was_killed_with_its_worker_is_run_again(
    database_url: str, tmp_path: Path, simulator: Simulator
) -> None:
    program = f"echo run >> {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo {{}} finished"
    file = tmp_path / "destinations.toml"
    file.write_text(
        f"""
[[destination]]
name = "web"
kind = "files"
path = "{tmp_path}/web"

[[destination]]
name = "hook"
kind = "command"
command = ["sh", "-c", "{program}"]
after = "web"
min_interval_seconds = 0
"""
    )
    runs = tmp_path / "runs"
    stack = Stack(database_url, tmp_path, simulator, job_lease_seconds=2, destinations_file=file)
    try:
        stack.start()
        simulator.wait_for_webhooks(1)
        ids = [stack.order(f"customer{number}.example")["certificate_id"] for number in range(3)]
        wait_until(runs.exists, "the hook runs")
        stack.kill("worker")
        (tmp_path / "go").touch()
        for worker in ("worker", "second worker"):
            stack.start_worker(worker)
        for certificate_id in ids:
            deliveries = stack.wait_delivered(certificate_id)["deliveries"]
            assert "finished" in next(d["detail"] for d in deliveries if d["destination"] == "hook")
        assert 2 <= len(runs.read_text().splitlines()) <= 4
    finally:
        stack.stop()
