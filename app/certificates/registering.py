"""Our webhook at DNSimple: registered exactly once, at the URL and with the secret configured now."""

from __future__ import annotations

import json

import structlog

from app.certificates.reconciling import catch_up
from app.jobs.queue import Claim
from app.services import WEBHOOK_PATH, Services
from app.storage.clock import read_now
from app.storage.models import Fact

log = structlog.get_logger("certcourier")

_FACT = "webhook_id"
LOST_FACT = "webhook_lost"  # when it was last found suppressed or missing, and which of them
CHECKED_FACT = "webhook_checked"  # when it was last known to be registered


def register_webhook(services: Services, claim: Claim) -> None:
    """Create our webhook where it is missing or suppressed, then delete our outdated ones; leave all others alone.

    Ours are those under our public URL's webhook path, and the one whose ID we noted when we created it (so that a
    changed public URL is recognised). One call when all is well. Whatever happened while nobody
    heard DNSimple is caught up with.
    """
    with services.database.read() as session:
        noted = session.get(Fact, _FACT)
    noted_id = int(noted.value) if noted else None
    prefix = f"{services.settings.public_url}{WEBHOOK_PATH}/"
    ours = [hook for hook in services.dnsimple.webhooks() if hook.id == noted_id or hook.url.startswith(prefix)]
    good = [hook for hook in ours if hook.url == services.webhook_url and hook.suppressed_at is None]
    kept = good[0] if good else services.dnsimple.create_webhook(services.webhook_url)
    if not good:
        log.info("webhook registered", webhook_id=kept.id)
    if kept.id != noted_id:
        with services.queue.checkpoint(claim) as session:
            session.merge(Fact(name=_FACT, value=str(kept.id)))
            if noted is not None and not good:
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
        session.merge(Fact(name=CHECKED_FACT, value=read_now(session).isoformat()))
