"""Everything that can be set: on the command line at start, most of it through the control interface later."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Settings:
    """Seconds are floats. `help` is what `--help` and docs/simulator.md say."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=4570, metadata={"help": "port to listen on; 0 takes a free one"})
    threads: int = field(default=32, metadata={"help": "requests answered at a time"})
    account: int = field(default=1010, metadata={"help": "number of the only account"})
    email: str = field(default="operator@example.com", metadata={"help": "e-mail of the account"})
    token: str = field(default="simulated-token", metadata={"help": "the API token that is accepted"})
    plan: str = field(default="teams", metadata={"help": "plan of the account", "choices": ("none", "solo", "teams")})
    domains: list[str] = field(
        default_factory=list, metadata={"help": "a domain of the account; may be repeated", "flag": "--domain"}
    )
    any_domain: bool = field(
        default=False, metadata={"help": "have every domain that is asked for by name in the account"}
    )
    unknown_domains: list[str] = field(
        default_factory=list,
        metadata={"help": "a domain that --any-domain leaves out; may be repeated", "flag": "--unknown-domain"},
    )
    state: Path | None = field(
        default=None, metadata={"help": "SQLite file that keeps everything; without it a stop forgets all"}
    )
    issue_delay: float = field(default=5.0, metadata={"help": "seconds from the issue call to `issued`"})
    issued_lag: float = field(
        default=0.0, metadata={"help": "seconds after `issued` for which downloads still answer 428"}
    )
    validity_days: float = field(default=90.0, metadata={"help": "lifetime of certificates, in days"})
    backdate: float = field(default=3600.0, metadata={"help": "seconds that notBefore lies in the past"})
    renew_before_days: float = field(
        default=30.0,
        metadata={"help": "days before expiry at which auto-renewal begins, but never before half of the lifetime"},
    )
    renew_retry_days: float = field(
        default=1.0, metadata={"help": "days until an auto-renewal that failed is tried again"}
    )
    ari_retry_after: int = field(
        default=21_600, metadata={"help": "seconds after which renewal information shall be asked for again"}
    )
    distinct_purchase_ids: bool = field(
        default=False, metadata={"help": "give purchases IDs of their own instead of the certificate's"}
    )
    allow_http_webhooks: bool = field(
        default=False, metadata={"help": "accept webhooks that are not https, for tests on one machine"}
    )
    webhook_retry_base: float = field(
        default=14.0, metadata={"help": "seconds before the first retry of an event; doubles each time"}
    )
    webhook_attempts: int = field(default=10, metadata={"help": "attempts for one event"})
    webhook_timeout: float = field(default=10.0, metadata={"help": "seconds to wait for an acknowledgement"})
    suppress_after: int = field(
        default=15, metadata={"help": "failed attempts in a row after which a webhook is suppressed"}
    )
    webhook_events_to_itself: bool = field(
        default=True, metadata={"help": "send `webhook.create` to the webhook that was created, too"}
    )
    deliver_times: int = field(default=1, metadata={"help": "how often each event is delivered"})
    rate_limit: int = field(default=2400, metadata={"help": "API calls per window"})
    rate_window: float = field(default=3600.0, metadata={"help": "seconds of the window"})
    latency: float = field(default=0.0, metadata={"help": "seconds that every API call takes longer"})
    seed: int = field(default=0, metadata={"help": "of the dice that throw faults; the same one, the same faults"})
    rates: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "a fault and how often it happens, from 0 to 1; may be repeated", "flag": "--fault"},
    )
    event_delay: float = field(default=5.0, metadata={"help": "most seconds by which `event-delayed` delays"})
    verbose: bool = field(default=False, metadata={"help": "log every call and every event"})


# What the control interface may change while the simulator runs.
CHANGEABLE = frozenset({
    "any_domain", "issue_delay", "issued_lag", "validity_days", "backdate", "renew_before_days", "plan",
    "renew_retry_days", "ari_retry_after",
    "webhook_retry_base", "webhook_attempts", "webhook_timeout", "suppress_after", "webhook_events_to_itself",
    "deliver_times", "event_delay", "rate_limit", "rate_window", "latency", "verbose",
})  # fmt: skip
