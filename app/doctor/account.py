"""Checks of the DNSimple account: the token and what it may do, by calls that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from app.db.clock import read_now
from app.dnsimple.errors import AuthenticationError, ForbiddenError, NotFoundError
from app.doctor.findings import CheckContext, Finding, ok, problem, warning
from app.services import WEBHOOK_PATH
from app.web.dashboard.overview import quota_state

_TOKEN_PAGE = "DNSimple's page Account, Automation"  # noqa: S105, no token


def check_token(examination: CheckContext) -> Iterable[Finding]:
    """It is valid and this account's."""
    account = examination.services.account_id
    try:
        identity = examination.dnsimple.whoami()
    except AuthenticationError as error:
        yield problem(f"DNSimple rejects the token: {error}", f"make a new one on {_TOKEN_PAGE}: DNSIMPLE_API_TOKEN")
        return
    if identity.account_id is None:
        yield warning(
            "the token is a user's, not an account's: it opens all accounts of that user",
            f"make an account token on {_TOKEN_PAGE}",
        )
    elif identity.account_id != account:
        yield problem(
            f"the token is of account {identity.account_id}, DNSIMPLE_ACCOUNT_ID is {account}",
            "set both of the same account",
        )
    else:
        yield ok(f"the token is valid for account {account}")


def check_permissions(examination: CheckContext) -> Iterable[Finding]:
    """What it may see; whether it may buy cannot be asked without buying."""
    dnsimple = examination.dnsimple
    domain = examination.domain
    allowed, finding = _asked("list domains", lambda: dnsimple.domains(1)[0])
    yield finding
    if domain is None and allowed:
        domain = allowed[0].name.lower()
    if domain is not None:
        asked = domain
        yield _asked(f"list certificates of {asked}", lambda: next(dnsimple.certificates(asked), None))[1]
    elif allowed is not None:
        yield problem(
            "the token sees no domain", "add a domain to the account, or let the token see it; then give --domain"
        )
    yield _asked("list webhooks", dnsimple.webhooks)[1]


def check_webhook(examination: CheckContext) -> Iterable[Finding]:
    """Registered, once, and not suppressed."""
    services = examination.services
    prefix = f"{services.settings.public_url}{WEBHOOK_PATH}/"
    ours = [hook for hook in examination.dnsimple.webhooks() if hook.url.startswith(prefix)]
    wanted = [hook for hook in ours if hook.url == services.webhook_url]
    remedy = "the worker puts this right every two minutes: see that one runs, and `flask jobs list`"
    if not wanted:
        yield problem("our webhook is not registered at DNSimple", remedy)
    elif all(hook.suppressed_at for hook in wanted):
        yield problem("our webhook is suppressed: DNSimple sends nothing, for it was answered wrongly 15 times", remedy)
    elif len(ours) > 1:
        yield warning(f"our webhook is registered {len(ours)} times: each event comes as often", remedy)
    else:
        yield ok("our webhook is registered, once, and not suppressed")


def check_quota(examination: CheckContext) -> Iterable[Finding]:
    """Calls are left and not stopped."""
    services = examination.services
    with services.database.read() as session:
        state = quota_state(services, session, read_now(session))
    if state is None:
        yield ok("no call has been made yet")
    elif state.stopped_until is not None:
        yield problem(
            f"all calls are stopped until {state.stopped_until:%H:%M:%S} UTC: {state.stopped_because}",
            "replace a rejected token; a quota that was exceeded comes back by itself",
        )
    elif state.resets_at is not None and state.remaining < state.limit / 20:
        yield warning(
            f"{state.remaining} of {state.limit} calls are left until {state.resets_at:%H:%M:%S} UTC",
            "see which other programs use the account",
        )
    else:
        yield ok(f"{state.remaining} of {state.limit} calls are left")


def check_zone(examination: CheckContext) -> Iterable[Finding]:
    """DNSimple can only prove a domain whose zone it answers for."""
    domain = examination.domain
    if domain is None:
        return
    try:
        zone = examination.dnsimple.zone(domain)
    except NotFoundError:
        yield problem(f"{domain} is no zone of the account", "add the domain to the account, or let the token see it")
        return
    if not zone.active:
        yield problem(f"the zone {domain} is not active", "enable its resolution on DNSimple's page of the domain")
    if zone.secondary:
        yield problem(
            f"the zone {domain} is a copy of another name server's (Secondary DNS): DNSimple cannot add its proof",
            "make DNSimple the primary",
        )
    if zone.active and not zone.secondary:
        yield ok(f"the zone {domain} is active")


def _asked(what: str, call: Callable[[], Any]) -> tuple[Any, Finding]:
    try:
        return call(), ok(f"the token may {what}")
    except ForbiddenError as error:
        return None, problem(f"the token may not {what}: {error}", f"give it the scope that is named on {_TOKEN_PAGE}")
    except NotFoundError as error:
        return None, problem(f"the token may not {what}: {error}", "add the domain, or let the token see it")
