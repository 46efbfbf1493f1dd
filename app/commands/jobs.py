"""`certcourier jobs`."""

from __future__ import annotations

from itertools import batched

import click
from flask.cli import AppGroup
from sqlalchemy import select

from app.audit import record
from app.commands.options import RECORD_ID, as_json_option, limit_option, state_option
from app.commands.output import counted, current_services, moment, operator, print_record, print_rows
from app.db.models import Job, JobState
from app.errors import PermanentError
from app.jobs.kinds import JobKind, Priority
from app.jobs.queue import Claim
from app.operations import job_retry
from app.worker.handlers import HANDLERS

_BATCH = 100
_KINDS = sorted(kind.value for kind in JobKind)

group = AppGroup("jobs", help="Inspect, retry and cancel background jobs.")


@group.command("list", epilog="Example: certcourier jobs list --state dead --kind deliver")
@state_option(*(state.value for state in JobState))
@click.option("--kind", type=click.Choice(_KINDS), help="Filter by kind.")
@limit_option
@as_json_option
def list_jobs(state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if state:
        query = query.where(Job.state == state)
    if kind:
        query = query.where(Job.kind == kind)
    with current_services().database.read() as session:
        jobs = session.scalars(query).all()
    rows = [
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "attempts": job.attempts,
            "run_at": moment(job.run_at),
            "args": job.args_line,
            "last_error": job.last_error,
        }
        for job in jobs
    ]
    print_rows(rows, as_json=as_json, empty="No matching jobs.")


@group.command("show", epilog="Example: certcourier jobs show 17")
@click.argument("job_id", type=RECORD_ID)
@as_json_option
def show_job(job_id: int, as_json: bool) -> None:
    """Show all details of a job."""
    with current_services().database.read() as session:
        job = session.get(Job, job_id)
    if job is None:
        raise click.ClickException(f"no job has the ID {job_id}; see `certcourier jobs list`")
    record = {
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
    print_record(record, as_json=as_json)


@group.command("retry", epilog="Example: certcourier jobs retry --all-dead --kind deliver")
@click.argument("job_id", type=RECORD_ID, required=False)
@click.option("--all-dead", is_flag=True, help="Retry all dead jobs.")
@click.option("--kind", type=click.Choice(_KINDS), help="With --all-dead: only jobs of this kind.")
def retry_job(job_id: int | None, all_dead: bool, kind: str | None) -> None:
    """Retry one dead job, or all of them."""
    if all_dead == (job_id is not None):
        raise click.UsageError("give either a job ID or --all-dead")
    if kind and not all_dead:
        raise click.UsageError("--kind requires --all-dead")
    services = current_services()
    if job_id is not None:
        try:
            with services.database.write() as session:
                retried = job_retry.retry_job(services.queue, session, job_id, actor=operator())
        except PermanentError as error:
            raise click.ClickException(str(error)) from None
        if not retried:
            raise click.ClickException(f"no dead job has the ID {job_id}; see `certcourier jobs list --state dead`")
        click.echo(f"Job {job_id} requeued.")
        return
    dead = select(Job.id, Job.kind).where(Job.state == JobState.DEAD)
    with services.database.read() as session:
        rows = session.execute(dead.where(Job.kind == kind) if kind else dead).all()
    job_ids = [dead_id for dead_id, dead_kind in rows if job_retry.instead_of_retrying(dead_kind) is None]
    count = 0
    for batch in batched(job_ids, _BATCH):
        with services.database.write() as session:
            count += sum(job_retry.retry_job(services.queue, session, dead_id, actor=operator()) for dead_id in batch)
    click.echo(f"{counted(count, 'job')} requeued.")
    skipped = len(rows) - len(job_ids)
    if skipped:
        click.echo(
            f"{counted(skipped, 'job')} cannot be retried; `certcourier jobs retry ID` shows what to do instead."
        )


@group.command("cancel", epilog="Example: certcourier jobs cancel 17")
@click.argument("job_id", type=RECORD_ID)
def cancel_job(job_id: int) -> None:
    """Cancel an unfinished job; its order or delivery is marked failed."""
    services = current_services()
    with services.database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or job.finished_at is not None or not services.queue.cancel(session, job_id):
            raise click.ClickException(f"no unfinished job has the ID {job_id}; see `certcourier jobs list`")
        cancelled = Claim.of(job)  # which no worker holds any longer
        if (handler := HANDLERS.get(job.kind)) and handler.on_death:
            handler.on_death(services, session, cancelled, f"job {job_id} was cancelled by {operator()}")
        record(session, actor=operator(), action="job.cancelled", subject=str(job_id))
    click.echo(f"Job {job_id} cancelled.")
