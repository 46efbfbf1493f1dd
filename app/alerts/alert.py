"""What a rule is, and what it finds: the active alerts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from app.auth.scopes import only
from app.db.models import Certificate
from app.dnsimple.quota_state import QuotaState, quota_state
from app.services import Services

ROWS_AT_A_TIME = 500  # of a query that may have many


def duration(length: timedelta) -> str:
    """In the largest unit of which there are several: `30 seconds`, `24 hours`, `7 days`."""
    for seconds, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        count, rest = divmod(length.total_seconds(), seconds)
        if count > 1 and not rest:
            return f"{count:.0f} {unit}"
    return f"{length.total_seconds():g} seconds"


class Severity(StrEnum):
    """`critical`: certificates are, or soon will be, missing or outdated. `warning`: act within days."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """A rule's condition that is true now. `kind` and `subject` identify it for as long as it lasts.

    `id` and `last_notified_at` are those of the alert's row, and None until the first evaluation by a worker.
    """

    kind: str
    severity: Severity
    subject: str
    since: datetime
    detail: str
    remedy: str
    certificate_id: int | None = None
    id: int | None = None
    last_notified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule found. `severity` where it differs from the rule's; `certificate_id` if it is about one."""

    subject: str
    since: datetime
    detail: str
    remedy: str
    severity: Severity | None = None
    certificate_id: int | None = None


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What rules are evaluated with.

    `domains` are the patterns that the reader is limited to, and `certificate_ids` the certificates that it asks about;
    None: no limit.
    """

    services: Services
    session: Session
    now: datetime
    domains: tuple[str, ...] | None = None
    certificate_ids: Sequence[int] | None = None

    @property
    def quota(self) -> QuotaState | None:
        """The quota for calls with our token."""
        account_id, token_digest = self.services.account_id, self.services.token_digest
        return quota_state(self.session, account_id=account_id, token_digest=token_digest, now=self.now)

    def permitted(self) -> list[ColumnElement[bool]]:
        """The limit as conditions on a certificate."""
        chosen = [] if self.certificate_ids is None else [Certificate.id.in_(self.certificate_ids)]
        return [*chosen, *only(self.domains, Certificate.domain)]


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of alert.

    `area` is what it is about: a check of the doctor, a page of the dashboard. `one` and `many` are titles, `when`
    describes its condition, in which `{threshold}` and `{settles}` stand for the durations below. An alert is resolved
    once its condition was false for `settles`. `by_domain` rules honour the
    limit of a domain-restricted token; others are not evaluated for it. While one that `blocks_readiness` is true,
    `/readyz` answers 503.
    """

    kind: str
    area: str
    severity: Severity
    one: str
    many: str | None = field(default=None, kw_only=True)
    when: str = field(kw_only=True)
    find: Callable[[RuleContext], Generator[Match]] = field(kw_only=True)
    threshold: timedelta | None = None
    settles: timedelta = timedelta(0)
    by_domain: bool = False
    blocks_readiness: bool = False

    @property
    def condition(self) -> str:
        """When it is true, for people."""
        threshold = "" if self.threshold is None else duration(self.threshold)
        return self.when.format(threshold=threshold, settles=duration(self.settles))

    def title(self, count: int, most: int | None = None) -> str:
        """`A job failed permanently`, `20 jobs failed permanently`, `1,000+ jobs failed permanently` beyond `most`."""
        if count == 1 or self.many is None:
            return self.one
        return self.many.format(f"{count:,}" if most is None or count <= most else f"{most:,}+")

    def evaluate(self, context: RuleContext, limit: int | None = None) -> list[ActiveAlert]:
        """What it finds now, one for each subject, at most `limit`."""
        found: dict[str, ActiveAlert] = {}
        with closing(self.find(context)) as matches:
            for match in islice(matches, limit):
                subject, severity = match.subject[:400], match.severity or self.severity
                alert = ActiveAlert(
                    self.kind, severity, subject, match.since, match.detail, match.remedy, match.certificate_id
                )
                found.setdefault(subject, alert)
        return list(found.values())
