"""Settings: given on the command line, most of them changeable through the control interface later."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Settings:
    """Durations are in seconds unless the name has another unit. `help` is shown by `--help` and docs/simulator.md."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=4570, metadata={"help": "port to listen on; 0 chooses a free one"})
    threads: int = field(default=32, metadata={"help": "number of request threads"})
    account: int = field(default=1010, metadata={"help": "ID of the only account"})
    email: str = field(default="operator@example.com", metadata={"help": "e-mail address of the account"})
    token: str = field(default="simulated-token", metadata={"help": "the accepted API token"})
    plan: str = field(default="teams", metadata={"help": "plan of the account", "choices": ("none", "solo", "teams")})
    domains: list[str] = field(
        default_factory=list, metadata={"help": "a domain of the account; repeatable", "flag": "--domain"}
    )
    any_domain: bool = field(
        default=False, metadata={"help": "add every domain that is requested by name to the account"}
    )
    unknown_domains: list[str] = field(
        default_factory=list,
        metadata={"help": "a domain that --any-domain does not add; repeatable", "flag": "--unknown-domain"},
    )
    state: Path | None = field(
        default=None, metadata={"help": "SQLite file that keeps the state; without it, the state is lost on exit"}
    )
    issue_delay: float = field(
        default=5.0, metadata={"help": "seconds from the issue call until the certificate is `issued`"}
    )
    issued_lag: float = field(
        default=0.0, metadata={"help": "seconds after `issued` during which downloads still return 428"}
    )
    validity_days: float = field(default=90.0, metadata={"help": "lifetime of certificates, in days"})
    backdate: float = field(default=3600.0, metadata={"help": "seconds by which notBefore lies in the past"})
    renew_before_days: float = field(
        default=30.0,
        metadata={"help": "days before expiry at which auto-renewal starts; never before half of the lifetime"},
    )
    renew_retry_days: float = field(default=1.0, metadata={"help": "days until a failed auto-renewal is retried"})
    ari_retry_after: int = field(default=21_600, metadata={"help": "`Retry-After` of renewal information, in seconds"})
    distinct_purchase_ids: bool = field(
        default=False, metadata={"help": "give purchases their own IDs instead of the certificate's"}
    )
    allow_http_webhooks: bool = field(
        default=False, metadata={"help": "accept webhook URLs without https, for tests on one machine"}
    )
    webhook_retry_base: float = field(
        default=14.0, metadata={"help": "seconds before the first retry of an event; doubles with each retry"}
    )
    webhook_attempts: int = field(default=10, metadata={"help": "maximum number of attempts per event"})
    webhook_timeout: float = field(
        default=10.0, metadata={"help": "seconds to wait for the acknowledgement of an event"}
    )
    suppress_after: int = field(
        default=15, metadata={"help": "consecutive failed attempts after which a webhook is suppressed"}
    )
    webhook_events_to_itself: bool = field(
        default=True, metadata={"help": "also send `webhook.create` to the webhook that was created"}
    )
    deliver_times: int = field(default=1, metadata={"help": "number of times each event is delivered"})
    rate_limit: int = field(default=2400, metadata={"help": "API calls per rate-limit window"})
    rate_window: float = field(default=3600.0, metadata={"help": "length of the rate-limit window, in seconds"})
    latency: float = field(default=0.0, metadata={"help": "extra seconds for every API call"})
    seed: int = field(default=0, metadata={"help": "seed of the random faults; the same seed gives the same faults"})
    rates: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "a fault and its rate from 0 to 1; repeatable", "flag": "--fault"},
    )
    event_delay: float = field(default=5.0, metadata={"help": "maximum delay of `event-delayed`, in seconds"})
    verbose: bool = field(default=False, metadata={"help": "log every call and every event"})


# Settings that the control interface can change.
CHANGEABLE = frozenset({
    "any_domain", "issue_delay", "issued_lag", "validity_days", "backdate", "renew_before_days", "plan",
    "renew_retry_days", "ari_retry_after",
    "webhook_retry_base", "webhook_attempts", "webhook_timeout", "suppress_after", "webhook_events_to_itself",
    "deliver_times", "event_delay", "rate_limit", "rate_window", "latency", "verbose",
})  # fmt: skip
