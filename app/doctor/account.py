"""Checks of the DNSimple account: token, permissions, webhook and quota, by calls that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from app.db.clock import read_now
from app.dnsimple.errors import AuthenticationError, ForbiddenError, NotFoundError
from app.dnsimple.quota_state import quota_state
from app.doctor.alerts import alert_findings
from app.doctor.findings import CheckContext, Finding, critical, ok, warning
from app.services import WEBHOOK_PATH

_TOKEN_PAGE = "DNSimple's page Account, Automation"  # noqa: S105, no token


def check_token(context: CheckContext) -> Iterable[Finding]:
    """It is valid and belongs to this account."""
    account = context.services.account_id
    try:
        identity = context.dnsimple.whoami()
    except AuthenticationError as error:
        yield critical(
            f"DNSimple rejects the token: {error}", f"create one on {_TOKEN_PAGE}, then set DNSIMPLE_API_TOKEN"
        )
        return
    if identity.account_id is None:
        yield warning(
            "the token is a user token, not an account token: it gives access to all accounts of that user",
            f"create an account token on {_TOKEN_PAGE}",
        )
    elif identity.account_id != account:
        yield critical(
            f"the token belongs to account {identity.account_id}, but DNSIMPLE_ACCOUNT_ID is {account}",
            "set both for the same account",
        )
    else:
        yield ok(f"the token is valid for account {account}")


def check_permissions(context: CheckContext) -> Iterable[Finding]:
    """What it can read; whether it can purchase cannot be checked without a purchase."""
    dnsimple = context.dnsimple
    domain = context.domain
    domains, finding = _test_permission("list domains", lambda: dnsimple.domains(1)[0])
    yield finding
    if domain is None and domains:
        domain = domains[0].name.lower()
    if domain is not None:
        name = domain
        yield _test_permission(f"list certificates of {name}", lambda: next(dnsimple.certificates(name), None))[1]
    elif domains is not None:
        yield critical(
            "the token has access to no domain",
            "add a domain to the account or give the token access to one, then use --domain",
        )
    yield _test_permission("list webhooks", dnsimple.webhooks)[1]


def check_webhook(context: CheckContext) -> Iterable[Finding]:
    """Registered, once, and not suppressed."""
    yield from alert_findings(context, "webhook")
    services = context.services
    prefix = f"{services.settings.public_url}{WEBHOOK_PATH}/"
    ours = [hook for hook in context.dnsimple.webhooks() if hook.url.startswith(prefix)]
    wanted = [hook for hook in ours if hook.url == services.webhook_url]
    remedy = "a worker repairs this every two minutes: check that one is running, and `certcourier jobs list`"
    if not wanted:
        yield critical("the webhook is not registered at DNSimple", remedy)
    elif all(hook.suppressed_at for hook in wanted):
        yield critical("the webhook is suppressed: DNSimple stopped sending events after 15 failed deliveries", remedy)
    elif len(ours) > 1:
        yield warning(f"the webhook is registered {len(ours)} times: each event arrives as often", remedy)
    else:
        yield ok("the webhook is registered once and not suppressed")


def check_quota(context: CheckContext) -> Iterable[Finding]:
    """How many API calls are left, and whether calls are paused."""
    found = list(alert_findings(context, "quota"))
    if found:
        return found
    services = context.services
    with services.database.read() as session:
        now = read_now(session)
        state = quota_state(session, account_id=services.account_id, token_digest=services.token_digest, now=now)
    if state is None:
        return [ok("no call has been made yet")]
    return [ok(f"{state.remaining:,} of {state.limit:,} API calls are left")]


def _test_permission(what: str, call: Callable[[], Any]) -> tuple[Any, Finding]:
    try:
        return call(), ok(f"the token can {what}")
    except ForbiddenError as error:
        return None, critical(f"the token cannot {what}: {error}", f"give it the scope that is named on {_TOKEN_PAGE}")
    except NotFoundError as error:
        return None, critical(f"the token cannot {what}: {error}", "add the domain, or give the token access to it")
