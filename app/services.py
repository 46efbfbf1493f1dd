"""The wiring: every collaborator of a process, built once from the settings.

A use case takes the two or three collaborators that it uses. Job handlers, which the worker calls by name, and the few
functions that need more take `Services` whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.crypto.encryption import Encryptor
from app.crypto.keyring import KeyFile
from app.crypto.private_key_store import PrivateKeyStore
from app.crypto.secret_files import read_secret
from app.crypto.webhook_secrets import WebhookSecrets
from app.db.database import Database
from app.destinations.base import Destination
from app.destinations.registry import load_destinations
from app.destinations.time_limits import TimeLimits
from app.dnsimple.adapter import DNSimple
from app.dnsimple.budget import RateBudget, Shares, digest_token
from app.endpoints.probe import Probes
from app.endpoints.registry import Endpoint, load_endpoints
from app.jobs.queue import Queue
from app.metrics import ProcessMetrics
from app.notifications.notifier import Notifier, build_notifier
from config import Settings

WEBHOOK_PATH = "/dnsimple/events"


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of one process; tests replace some of them."""

    settings: Settings
    database: Database
    queue: Queue
    dnsimple: DNSimple
    destinations: Mapping[str, Destination]
    encryptor: Encryptor
    private_keys: PrivateKeyStore
    webhook_secrets: WebhookSecrets
    time_limits: TimeLimits = field(default_factory=TimeLimits)
    metrics: ProcessMetrics = field(default_factory=ProcessMetrics)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    probes: Probes = field(default_factory=Probes)
    notifier: Notifier = field(default_factory=Notifier)

    def share_metrics(self) -> None:
        """Count together with this host's other processes: called by those that serve, before they fork."""
        self.metrics.share(self.settings.data_dir / "metrics")

    @property
    def account_id(self) -> int:
        """The DNSimple account that this installation serves."""
        return self.settings.dnsimple_account_id

    @property
    def token_digest(self) -> str:
        """What stands for our DNSimple token in the quota's row."""
        return digest_token(self.settings.dnsimple_api_token.get_secret_value())

    @property
    def webhook_url(self) -> str:
        """The URL to which DNSimple posts its events, with the newest secret. Never log it."""
        return f"{self.webhook_prefix}{self.webhook_secrets.current()}"

    @property
    def webhook_prefix(self) -> str:
        """What all our webhooks' URLs begin with; the rest is the secret."""
        return f"{self.settings.public_url}{WEBHOOK_PATH}/"


def build_services(settings: Settings) -> Services:
    """Open nothing yet but the secret files: connections are made when first used, after gunicorn has forked."""
    destinations = load_destinations(settings.destinations_file, data_dir=settings.data_dir)
    database = Database(settings.database_url, pool_size=max(settings.worker_threads, settings.web_threads // 2) + 2)
    metrics = ProcessMetrics()
    encryptor = _encryptor(settings)
    return Services(
        settings=settings,
        metrics=metrics,
        database=database,
        queue=Queue(database, lease_seconds=settings.job_lease_seconds),
        dnsimple=DNSimple(
            account_id=settings.dnsimple_account_id,
            token=settings.dnsimple_api_token.get_secret_value(),
            base_url=settings.dnsimple_base_url,
            connect_timeout=settings.dnsimple_connect_timeout_seconds,
            read_timeout=settings.dnsimple_read_timeout_seconds,
            pool_size=max(settings.worker_threads, settings.web_threads),
            ca_bundle=str(settings.dnsimple_ca_bundle) if settings.dnsimple_ca_bundle else None,
            budget=RateBudget(
                database,
                account_id=settings.dnsimple_account_id,
                token=settings.dnsimple_api_token.get_secret_value(),
                shares=Shares(settings.quota_reserve_percent, settings.quota_unknown_percent),
            ),
        ).with_observer(
            lambda answer: metrics.observe_dnsimple_call(answer.method, answer.path, answer.status, answer.seconds)
        ),
        destinations=destinations,
        endpoints=load_endpoints(settings.destinations_file, destinations),
        probes=Probes(max(1, settings.worker_threads // 4)),
        notifier=build_notifier(settings),
        encryptor=encryptor,
        private_keys=PrivateKeyStore(encryptor),
        webhook_secrets=WebhookSecrets(database, encryptor, given=_given_webhook_secret(settings)),
    )


def _encryptor(settings: Settings) -> Encryptor:
    if settings.key_encryption_key is not None:
        return Encryptor(settings.key_encryption_key.get_secret_value())
    file = KeyFile(settings.kek_file)
    return Encryptor(file.read(), reread=file.reread)


def _given_webhook_secret(settings: Settings) -> str | None:
    """The operator's own, or the one that an earlier version has made."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    file = settings.data_dir / "webhook.secret"
    return read_secret(file) if file.exists() else None
