"""Our webhook at DNSimple: registered exactly once, at the configured URL with the newest secret."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from app.certificates.reconciliation import catch_up
from app.crypto.encryption import DecryptionError, KeyNotHeldError
from app.crypto.webhook_secrets import PROPAGATION_SECONDS, digest_of
from app.db.clock import read_now
from app.db.installation_state import MISSED_EVENTS, WEBHOOK_CHECKED_AT, WEBHOOK_ID, MissedEvents
from app.dnsimple.models import Webhook
from app.jobs.queue import Claim, Snooze
from app.services import Services

log = structlog.get_logger("certcourier")


def register_webhook(services: Services, claim: Claim) -> None:
    """Create our webhook where it is missing or suppressed, then delete our outdated ones; leave all others alone.

    Ours are those under our public URL's webhook path, and the one whose ID we recorded when we created it, so that a
    changed public URL is recognised. One call if nothing has changed. If events were missed, reconciliation catches up.
    Secrets of deleted URLs are retired once DNSimple no longer retries events to them.
    """
    with services.database.read() as session:
        recorded_id = WEBHOOK_ID.get(session)
    digest = services.webhook_secrets.current_digest()
    webhooks = services.dnsimple.webhooks()
    ours = [hook for hook in webhooks if hook.id == recorded_id or hook.url.startswith(services.webhook_prefix)]
    current = [
        hook for hook in ours if _secret_digest(services.webhook_prefix, hook) == digest and hook.suppressed_at is None
    ]
    kept = current[0] if current else _create(services)
    if kept.id != recorded_id:
        with services.queue.checkpoint(claim) as session:
            WEBHOOK_ID.set(session, kept.id)
            if (
                recorded_id is not None
                and not current
                and missed_events(services.webhook_prefix, webhooks, recorded_id)
            ):
                cause = "suppressed" if any(hook.suppressed_at for hook in ours) else "missing"
                log.warning("webhook was missing or suppressed", webhook_id=recorded_id)
                MISSED_EVENTS.set(session, MissedEvents(read_now(session), cause))
                catch_up(services.queue, session)
    # Created first, deleted last: at every moment one of them receives DNSimple's events.
    for hook in ours:
        if hook.id != kept.id:
            services.dnsimple.delete_webhook(hook.id)
            log.info("webhook removed", webhook_id=hook.id)
    with services.queue.finishing(claim) as session:
        services.webhook_secrets.expire_others(session, digest)
        WEBHOOK_CHECKED_AT.set(session, read_now(session))


def _create(services: Services) -> Webhook:
    pause = services.webhook_secrets.seconds_until_known()
    if pause > 0:
        raise Snooze(pause, "every process has to load the webhook's new secret first")
    try:
        url = services.webhook_url
    except (KeyNotHeldError, DecryptionError):
        # Its key-encryption key is lost. Events under the old secret are still accepted; a new one is generated.
        with services.database.write() as session:
            services.webhook_secrets.rotate(session)
        raise Snooze(PROPAGATION_SECONDS, "the webhook's secret cannot be decrypted; a new one is generated") from None
    created = services.dnsimple.create_webhook(url)
    log.info("webhook registered", webhook_id=created.id)
    return created


def missed_events(webhook_prefix: str, webhooks: Sequence[Webhook], recorded_id: int) -> bool:
    """Whether events may have been lost: not if the recorded webhook is active and only its secret is outdated."""
    prefix = webhook_prefix
    return not any(
        hook.id == recorded_id and hook.url.startswith(prefix) and hook.suppressed_at is None for hook in webhooks
    )


def _secret_digest(webhook_prefix: str, hook: Webhook) -> str | None:
    ours = webhook_prefix
    return digest_of(hook.url.removeprefix(ours)) if hook.url.startswith(ours) else None
