"""`flask jobs`."""

from __future__ import annotations

import click
from flask.cli import AppGroup
from sqlalchemy import select

from app.commands.output import as_json_option, current_services, operator, print_rows
from app.storage.audit import record
from app.storage.models import Job

group = AppGroup("jobs", help="Work that is owed, running, done or given up.")


@group.command("list")
@click.option("--state", type=click.Choice(["ready", "running", "done", "dead", "cancelled"]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
def list_jobs(state: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    with current_services().database.read() as session:
        found = session.scalars(query.where(Job.state == state) if state else query).all()
    rows = [
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "attempts": job.attempts,
            "due_at": job.due_at.isoformat(timespec="seconds"),
            "about": " ".join(f"{name}={value}" for name, value in job.args.items() if value is not None),
            "last_error": job.last_error,
        }
        for job in found
    ]
    print_rows(rows, as_json=as_json, empty="No such jobs.")


@group.command("retry")
@click.argument("job_id", type=int)
def retry_job(job_id: int) -> None:
    """Let a dead job start afresh."""
    services = current_services()
    with services.database.write() as session:
        if not services.queue.revive(session, job_id):
            raise click.ClickException(f"no dead job has the ID {job_id}; see `flask jobs list --state dead`")
        record(session, actor=operator(), action="job.retried", subject=str(job_id))
    click.echo(f"Job {job_id} starts again.")


@group.command("cancel")
@click.argument("job_id", type=int)
def cancel_job(job_id: int) -> None:
    """Drop a job that has not finished."""
    services = current_services()
    with services.database.write() as session:
        if not services.queue.cancel(session, job_id):
            raise click.ClickException(f"no unfinished job has the ID {job_id}; see `flask jobs list`")
        record(session, actor=operator(), action="job.cancelled", subject=str(job_id))
    click.echo(f"Job {job_id} is cancelled.")
