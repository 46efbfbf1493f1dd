"""Our webhook at DNSimple: registered exactly once, at the URL configured now and with the newest secret."""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog

from app.certificates.reconciliation import catch_up
from app.crypto.encryption import DecryptionError, KeyNotHeldError
from app.crypto.webhook_secrets import SPREAD_SECONDS, digest_of
from app.db.clock import read_now
from app.db.models import Fact
from app.dnsimple.models import Webhook
from app.jobs.queue import Claim, Snooze
from app.services import Services

log = structlog.get_logger("certcourier")

_FACT = "webhook_id"
LOST_FACT = "webhook_lost"  # when it was last found suppressed or missing, and which of them
CHECKED_FACT = "webhook_checked"  # when it was last known to be registered


def register_webhook(services: Services, claim: Claim) -> None:
    """Create our webhook where it is missing or suppressed, then delete our outdated ones; leave all others alone.

    Ours are those under our public URL's webhook path, and the one whose ID we noted when we created it (so that a
    changed public URL is recognised). One call when all is well. Whatever happened while nobody
    heard DNSimple is caught up with. Secrets of URLs that are gone end when DNSimple repeats nothing to them any more.
    """
    with services.database.read() as session:
        noted = session.get(Fact, _FACT)
    noted_id = int(noted.value) if noted else None
    wanted = services.webhook_secrets.current_digest()
    hooks = services.dnsimple.webhooks()
    ours = [hook for hook in hooks if hook.id == noted_id or hook.url.startswith(services.webhook_prefix)]
    good = [hook for hook in ours if _digest(services, hook) == wanted and hook.suppressed_at is None]
    kept = good[0] if good else _create(services)
    if kept.id != noted_id:
        with services.queue.checkpoint(claim) as session:
            session.merge(Fact(name=_FACT, value=str(kept.id)))
            if noted is not None and not good and _was_deaf(services, hooks, noted_id):
                what = "suppressed" if any(hook.suppressed_at for hook in ours) else "missing"
                log.warning("webhook was missing or suppressed", webhook_id=noted_id)
                found = json.dumps({"at": read_now(session).isoformat(), "what": what})
                session.merge(Fact(name=LOST_FACT, value=found))
                catch_up(services, session)
    # Created first, deleted last: there is no moment in which nobody hears DNSimple.
    for hook in ours:
        if hook.id != kept.id:
            services.dnsimple.delete_webhook(hook.id)
            log.info("webhook removed", webhook_id=hook.id)
    with services.queue.finishing(claim) as session:
        services.webhook_secrets.retire(session, but=wanted)
        session.merge(Fact(name=CHECKED_FACT, value=read_now(session).isoformat()))


def _create(services: Services) -> Webhook:
    pause = services.webhook_secrets.seconds_to_spread()
    if pause > 0:
        raise Snooze(pause, "every process has to hear of the webhook's new secret first")
    try:
        url = services.webhook_url
    except (KeyNotHeldError, DecryptionError):
        # It went with a lost key-encryption key. Events that still come under it are taken; a new one is made.
        with services.database.write() as session:
            services.webhook_secrets.rotate(session)
        raise Snooze(SPREAD_SECONDS, "the webhook's secret could not be opened; a new one is made") from None
    kept = services.dnsimple.create_webhook(url)
    log.info("webhook registered", webhook_id=kept.id)
    return kept


def _was_deaf(services: Services, hooks: Sequence[Webhook], noted_id: int | None) -> bool:
    """Whether events were lost: not if the webhook that we had is well and only its secret is outdated."""
    ours = services.webhook_prefix
    return not any(hook.id == noted_id and hook.url.startswith(ours) and hook.suppressed_at is None for hook in hooks)


def _digest(services: Services, hook: Webhook) -> str | None:
    ours = services.webhook_prefix
    return digest_of(hook.url.removeprefix(ours)) if hook.url.startswith(ours) else None
