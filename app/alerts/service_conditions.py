"""Conditions about the service itself: the webhook, the API quota, jobs and workers. `app.alerts.rules` uses them."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.alerts.alert import ROWS_AT_A_TIME, Match, RuleContext, duration
from app.db.installation_state import MISSED_EVENTS, WEBHOOK_CHECKED_AT
from app.db.models import Certificate, Job, JobState, Order, OrderState, Worker
from app.jobs.kinds import PERIODS, JobKind
from app.jobs.queue import ACCOUNT_BLOCKED, ACCOUNT_BLOCKED_INTERVAL

# Workers write a heartbeat every five seconds.
WORKER_SILENCE = timedelta(seconds=30)
JOB_LATENESS = timedelta(minutes=10)
WEBHOOK_CHECK_AGE = timedelta(minutes=15)
WEBHOOK_LOSS_SHOWN = timedelta(days=1)
# Their failure is recorded at the order or delivery, or in the import's result.
_REPORTED_ELSEWHERE = [kind for kind in JobKind if not kind.definition.alert_on_death]


def lost_webhook(context: RuleContext) -> Generator[Match]:
    """The webhook was found missing or suppressed recently."""
    missed = MISSED_EVENTS.get(context.session)
    if missed is not None and context.now - missed.found_at < WEBHOOK_LOSS_SHOWN:
        yield Match(
            "webhook",
            missed.found_at,
            f"the webhook was {missed.cause} and has been registered again; missed events are being recovered",
            "find out why DNSimple's events were not answered with 200: check the web server's log and the proxy",
        )


def unchecked_webhook(context: RuleContext) -> Generator[Match]:
    """The webhook has not been checked since a worker has had time to."""
    checked_at = WEBHOOK_CHECKED_AT.get(context.session)
    # A worker that was started just now has not checked yet.
    started = context.session.scalar(select(func.max(Worker.started_at))) or context.now
    since = max(checked_at, started) if checked_at else started
    if context.now - since > WEBHOOK_CHECK_AGE:
        error = context.session.scalar(select(Job.last_error).where(Job.key == JobKind.REGISTER_WEBHOOK))
        yield Match(
            "webhook",
            since,
            "the webhook's registration at DNSimple could not be checked" + (f": {error}" if error else ""),
            "fix the error, which `certcourier jobs list --kind register_webhook` shows as well",
        )


def rejected_token(context: RuleContext) -> Generator[Match]:
    """DNSimple rejects our token."""
    if context.quota is not None and context.quota.token_rejected:
        yield Match(
            f"account {context.services.account_id}",
            context.now,
            "DNSimple answers 401 to our token; orders and fetches wait",
            "set a valid DNSIMPLE_API_TOKEN, then restart web and worker",
        )


def blocked_account(context: RuleContext) -> Generator[Match]:
    """Jobs that DNSimple refused because of the account or of the token's permissions, such as an unpaid invoice."""
    waiting = Job.finished_at.is_(None), Job.snoozes > 0, Job.last_error.startswith(ACCOUNT_BLOCKED)
    oldest = context.session.scalar(select(Job).where(*waiting).order_by(Job.id).limit(1))
    if oldest is not None:
        count = context.session.scalar(select(func.count()).where(*waiting)) or 1
        jobs = f"1 {oldest.kind} job waits" if count == 1 else f"{count:,} jobs wait, the oldest a {oldest.kind} job"
        yield Match(
            f"account {context.services.account_id}",
            context.now,
            f"{jobs}: {str(oldest.last_error).removeprefix(ACCOUNT_BLOCKED)}",
            "pay the account's open invoices, or grant the token the permission that the error names; the jobs then "
            f"resume automatically within {duration(ACCOUNT_BLOCKED_INTERVAL)}",
        )


def paused_calls(context: RuleContext) -> Generator[Match]:
    """Calls to DNSimple are paused for another reason, such as an exceeded quota."""
    quota = context.quota
    if quota is not None and quota.paused_until is not None and not quota.token_rejected:
        yield Match(
            f"account {context.services.account_id}",
            context.now,
            f"{quota.paused_because}; calls resume automatically at {quota.paused_until:%H:%M:%S} UTC",
            "check which other programs use the account's API quota",
        )


def low_quota(context: RuleContext) -> Generator[Match]:
    """Few calls are left, and the window does not end soon."""
    quota = context.quota
    if quota is None or quota.resets_at is None:
        return
    low = quota.limit * context.services.settings.alert_quota_percent / 100
    if quota.remaining <= low and quota.resets_at - context.now > timedelta(seconds=quota.window_seconds / 4):
        yield Match(
            f"account {context.services.account_id}",
            context.now,
            f"{quota.remaining} of {quota.limit} API calls are left; work resumes at {quota.resets_at:%H:%M} UTC",
            "no action is needed during a wave of renewals; otherwise check which other programs use the account",
        )


def failed_jobs(context: RuleContext) -> Generator[Match]:
    """Dead jobs whose failure is recorded nowhere else."""
    later = aliased(Job)
    succeeded_since = exists().where(later.kind == Job.kind, later.id > Job.id, later.state == JobState.DONE)
    # A fetch's failure is recorded at its order, if there is one; it may also have succeeded after all.
    certificate_id = Job.args["certificate_id"].as_integer()
    recorded_at_order = exists().where(
        Certificate.id == certificate_id,
        or_(
            Certificate.fetched_at.is_not(None),
            exists().where(Order.id == Certificate.order_id, Order.state == OrderState.FAILED),
        ),
    )
    query = select(Job).where(
        Job.state == JobState.DEAD,
        Job.kind.not_in(_REPORTED_ELSEWHERE),
        ~(Job.kind.in_(PERIODS) & succeeded_since),
        ~((Job.kind == JobKind.FETCH_CERTIFICATE) & recorded_at_order),
    )
    for job in context.session.scalars(query.order_by(Job.id.desc()).execution_options(yield_per=ROWS_AT_A_TIME)):
        named = ("certificate_id", "order_id", "endpoint", "address")
        args = [f"{name}={job.args[name]}" for name in named if job.args.get(name)]
        yield Match(
            job.kind if job.kind in PERIODS else " ".join([job.kind, *args]),
            job.finished_at or job.created_at,
            job.last_error or "",
            f"fix the cause, then `certcourier jobs retry {job.id}`",
        )


def late_jobs(context: RuleContext) -> Generator[Match]:
    """Kinds of jobs that are due and wait to be started."""
    late = Job.state == JobState.READY, Job.run_at < context.now - JOB_LATENESS
    query = select(Job.kind, func.count(), func.min(Job.run_at)).where(*late).group_by(Job.kind).order_by(Job.kind)
    for kind, count, since in context.session.execute(query):
        waiting = "1 job is" if count == 1 else f"{count:,} jobs are"
        yield Match(
            kind,
            since,
            f"{waiting} due and not started, the oldest since {since:%Y-%m-%d %H:%M} UTC",
            "start more workers or raise WORKER_THREADS; `certcourier jobs list --state running` shows what they do",
        )


def no_worker(context: RuleContext) -> Generator[Match]:
    """No worker sends heartbeats."""
    last = context.session.scalar(select(func.max(Worker.last_heartbeat_at)))
    if last is None or last <= context.now - WORKER_SILENCE:
        seen = "none has been started" if last is None else f"the last heartbeat was at {last:%Y-%m-%d %H:%M:%S} UTC"
        yield Match(
            "workers", last or context.now, f"no jobs are being processed: {seen}", "start `certcourier worker`"
        )


def silent_workers(context: RuleContext) -> Generator[Match]:
    """Workers that were not stopped and not replaced by one that was started since. Without any, see `no_worker`."""
    workers = worker_states(context.session, context.now)
    if all(state != "running" for _, state in workers):
        return
    for row, state in workers:
        if state == "silent":
            yield Match(
                f"worker {row.id} on {row.host}",
                row.last_heartbeat_at,
                f"it sent its last heartbeat at {row.last_heartbeat_at:%Y-%m-%d %H:%M:%S} UTC and was not stopped",
                "check that its process and host are running, then start `certcourier worker`",
            )


def worker_states(session: Session, now: datetime) -> list[tuple[Worker, str]]:
    """Each worker that was not stopped, most recent heartbeat first, and whether it is `running`, `silent`, or silent
    but `replaced` by one that was started since.
    """
    rows = list(session.scalars(select(Worker).order_by(Worker.last_heartbeat_at.desc())))
    recent = now - WORKER_SILENCE
    starts = sorted((row.started_at for row in rows if row.last_heartbeat_at > recent), reverse=True)
    states = []
    for row in rows:
        if row.last_heartbeat_at > recent:
            state = "running"
        elif starts and starts[0] > row.last_heartbeat_at:
            starts.pop(0)
            state = "replaced"
        else:
            state = "silent"
        states.append((row, state))
    return states
