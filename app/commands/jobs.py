"""`flask jobs`."""

from __future__ import annotations

from itertools import batched

import click
from flask.cli import AppGroup
from sqlalchemy import select

from app.audit import record
from app.commands.output import as_json_option, current_services, moment, operator, print_record, print_rows
from app.db.models import Job
from app.errors import PermanentError
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim
from app.operations import job_retry
from app.worker.handlers import HANDLERS

_BATCH = 100
_KINDS = sorted(kind.value for kind in JobKind)

group = AppGroup("jobs", help="Work that is owed, running, done or given up.")


@group.command("list", epilog="Example: flask jobs list --state dead --kind deliver")
@click.option("--state", type=click.Choice(["ready", "running", "done", "dead", "cancelled"]), help="Only these.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only of this kind.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
def list_jobs(state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if state:
        query = query.where(Job.state == state)
    if kind:
        query = query.where(Job.kind == kind)
    with current_services().database.read() as session:
        found = session.scalars(query).all()
    rows = [
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "attempts": job.attempts,
            "run_at": moment(job.run_at),
            "about": " ".join(f"{name}={value}" for name, value in job.args.items() if value is not None),
            "last_error": job.last_error,
        }
        for job in found
    ]
    print_rows(rows, as_json=as_json, empty="No such jobs.")


@group.command("show", epilog="Example: flask jobs show 17")
@click.argument("job_id", type=int)
@as_json_option
def show_job(job_id: int, as_json: bool) -> None:
    """Show everything that is known of a job."""
    with current_services().database.read() as session:
        job = session.get(Job, job_id)
    if job is None:
        raise click.ClickException(f"no job has the ID {job_id}; see `flask jobs list`")
    known = {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "args": job.args,
        "key": job.key,
        "priority": Priority(job.priority).name.lower(),
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "snoozes": job.snoozes,
        "worker_id": job.worker_id,
        "last_error": job.last_error,
        "created_at": moment(job.created_at),
        "run_at": moment(job.run_at),
        "finished_at": moment(job.finished_at),
    }
    print_record(known, as_json=as_json)


@group.command("retry", epilog="Example: flask jobs retry --all-dead --kind deliver")
@click.argument("job_id", type=int, required=False)
@click.option("--all-dead", is_flag=True, help="All dead jobs instead of one.")
@click.option("--kind", type=click.Choice(_KINDS), help="With --all-dead: only of this kind.")
def retry_job(job_id: int | None, all_dead: bool, kind: str | None) -> None:
    """Let a dead job, or all of them, start afresh."""
    if all_dead == (job_id is not None):
        raise click.UsageError("give a job's ID, or --all-dead")
    if kind and not all_dead:
        raise click.UsageError("--kind goes with --all-dead")
    services = current_services()
    if job_id is not None:
        try:
            with services.database.write() as session:
                revived = job_retry.retry_job(services, session, job_id, actor=operator())
        except PermanentError as error:
            raise click.ClickException(str(error)) from None
        if not revived:
            raise click.ClickException(f"no dead job has the ID {job_id}; see `flask jobs list --state dead`")
        click.echo(f"Job {job_id} starts again.")
        return
    dead = select(Job.id, Job.kind).where(Job.state == "dead")
    with services.database.read() as session:
        found = session.execute(dead.where(Job.kind == kind) if kind else dead).all()
    ids = [number for number, kind_of in found if job_retry.instead_of_retrying(kind_of) is None]
    count = 0
    for some in batched(ids, _BATCH):
        with services.database.write() as session:
            count += sum(job_retry.retry_job(services, session, one, actor=operator()) for one in some)
    click.echo(f"{count} {'job starts' if count == 1 else 'jobs start'} again.")
    left = len(found) - len(ids)
    if left:
        click.echo(f"{left} cannot, for what they were for has ended; `flask jobs retry ID` says what to do instead.")


@group.command("cancel", epilog="Example: flask jobs cancel 17")
@click.argument("job_id", type=int)
def cancel_job(job_id: int) -> None:
    """Drop a job that has not finished; the order or delivery that it was for has failed then."""
    services = current_services()
    with services.database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or not services.queue.cancel(session, job_id):
            raise click.ClickException(f"no unfinished job has the ID {job_id}; see `flask jobs list`")
        nobodys = ""
        dropped = Claim(id=job.id, kind=job.kind, token=nobodys, args=job.args)
        if (handler := HANDLERS.get(job.kind)) and handler.on_death:
            handler.on_death(services, session, dropped, f"job {job_id} was cancelled by {operator()}")
        record(session, actor=operator(), action="job.cancelled", subject=str(job_id))
    click.echo(f"Job {job_id} is cancelled.")
